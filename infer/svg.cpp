#include <algorithm>
#include <cstdio>
#include <iterator>

#include "mien/infer/plan_impl.h"

namespace mien::infer {
namespace {

std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", v);
  return text;
}

// Pastels, written out: not every viewer knows hsl().
constexpr const char* colours[] = {"#e6b3b3", "#b3cde6", "#b3e6c1", "#e6d9b3", "#cdb3e6", "#b3e6e6", "#e6b3d9", "#d4e6b3"};

// XML takes these three in another form.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

}  // namespace

// One row a call. Left: the call and the shape of its output. Right: the arena from address 0 to its end; a box is a block from the first to the last
// call that touches it.
std::string svg(const Graph& g, const Program& program) {
  constexpr double row = 14, left = 430, width = 560, top = 40;
  std::vector<int> row_of;  // of every step: views take no time and have no row
  for (int n = 0; n < g.node_count(); ++n)
    if (!is_view(g.node(n)) || program.sizes().copies[static_cast<std::size_t>(n)]) row_of.push_back(n);
  const double height = top + row * static_cast<double>(row_of.size()) + 20;
  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + number(left + width + 20) + "\" height=\"" + number(height) +
                    "\" font-family=\"monospace\" font-size=\"10\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  out += "<text x=\"10\" y=\"20\">" + std::to_string(row_of.size()) + " calls</text><text x=\"" + number(left) +
         "\" y=\"20\">arena: " + std::to_string(program.arena_bytes()) + " bytes (" + std::to_string(program.unplanned_bytes()) +
         " without sharing)</text>\n";
  for (std::size_t k = 0; k < row_of.size(); ++k) {
    const Node& n = g.node(row_of[k]);
    const SizedValue& v = program.sizes().values[static_cast<std::size_t>(n.out[0])];
    out += "<text x=\"10\" y=\"" + number(top + row * static_cast<double>(k) + 10) + "\">" +
           escaped(std::string("v").append(std::to_string(n.out[0])) + " = " + display_name(n) + "  " + name(v.dtype) + to_string(v.shape)) + "</text>\n";
  }
  const double scale = width / static_cast<double>(std::max<std::int64_t>(program.arena_bytes(), 1));
  for (const auto& [value, b] : program.blocks()) {
    const char* colour = value < 0 ? "#c0c0c0" : colours[static_cast<std::size_t>(value) / 2 % std::size(colours)];
    const std::string label = value < 0 ? "scratch" : std::string("v").append(std::to_string(value));
    out += "<rect x=\"" + number(left + scale * static_cast<double>(b.offset)) + "\" y=\"" + number(top + row * b.first) + "\" width=\"" +
           number(std::max(1.0, scale * static_cast<double>(b.bytes))) + "\" height=\"" + number(row * (b.last - b.first + 1)) + "\" fill=\"" + colour +
           "\" stroke=\"white\"><title>" + label + ": " + std::to_string(b.bytes) + " bytes</title></rect>\n";
    if (scale * static_cast<double>(b.bytes) > 30)
      out += "<text x=\"" + number(left + scale * static_cast<double>(b.offset) + 3) + "\" y=\"" + number(top + row * b.first + 10) + "\">" + label +
             "</text>\n";
  }
  return out + "</svg>\n";
}

}  // namespace mien::infer
