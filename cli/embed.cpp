// mien embed: one embedding for each picture (or face), as JSON lines, CSV or a .npy matrix. mien align: the crops themselves.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>

#include "exit_codes.h"
#include "faces.h"
#include "mien/data/encode.h"
#include "mien/io/file.h"
#include "mien/io/torch_file.h"
#include "mien/tensor/error.h"

namespace fs = std::filesystem;

namespace mien::cli {
namespace {

struct Settings : FaceSettings {
  std::vector<std::string> paths;
  std::string format = "json", out;
  bool raw = false;
};

std::string csv_header(std::int64_t size) {
  std::string text = "file,x1,y1,x2,y2,score";
  for (const char* p : {"left_eye", "right_eye", "nose", "mouth_left", "mouth_right"}) text += std::string(",") + p + "_x," + p + "_y";
  for (std::int64_t i = 0; i < size; ++i) text += ",e" + std::to_string(i);
  return text + "\n";
}

std::string text_of(float v) {
  char text[32];
  std::snprintf(text, sizeof text, ",%.9g", static_cast<double>(v));
  return text;
}

// A picture without a face is a line with an empty embedding: no picture goes missing from the output.
std::string csv_line(const std::string& file, const EmbeddedFace* f, std::int64_t size) {
  std::string text = csv_field(file);
  if (f && f->face) {
    for (const float v : f->face->box) text += text_of(v);
    text += text_of(f->face->score);
    for (const auto& p : f->face->points) text += text_of(p[0]) + text_of(p[1]);
  } else {
    text += std::string(15, ',');
  }
  for (std::int64_t i = 0; i < size; ++i) text += f ? text_of(f->embedding[static_cast<std::size_t>(i)]) : ",";
  return text + "\n";
}

std::string json_line(const std::string& file, const EmbeddedFace* f) {
  Json line{{"schema", "mien.embed/1"}, {"file", file}, {"box", nullptr}, {"score", nullptr}, {"points", nullptr}, {"embedding", nullptr}};
  if (f && f->face) line.update(face_json(*f->face));
  if (f) {
    line["embedding"] = Json::array();
    for (const float v : f->embedding) line["embedding"].push_back(number(v));
  }
  return line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

int embed(Settings& s) {
  if (s.format == "npy" && s.face == "all") throw ValueError("--face", "all gives a changing number of rows: take --format json or csv");
  if (s.format == "npy" && s.out.empty()) throw ValueError("--format", "npy needs --out FILE");
  const MaxBad max_bad = parse_max_bad(s.max_bad);
  std::size_t locked = 0;
  const auto files = pictures_of(s.paths, "embed", locked);
  if (!s.out.empty()) {
    const fs::path out(s.out);
    keep_inputs("--out", files, out.has_parent_path() ? out.parent_path().string() : ".", {out.filename().string()}, "");
    check_can_write(s.out);
  }
  const Embedder embedder = Embedder::load(find_model(s.model), Device::parse(s.device));
  if (const auto flip = embedder.spec().threshold_flip; flip && *flip != s.flip)
    std::fprintf(stderr, "mien: the threshold in %s is for embeddings with%s --flip\n", find_model(s.model).c_str(), *flip ? "" : "out");
  const auto detector = start_faces(s);
  const std::int64_t size = embedder.spec().size;
  const bool matrix = s.format == "npy";
  std::string text = s.format == "csv" ? csv_header(size) : "";
  const Tensor rows = Tensor::empty({matrix ? static_cast<std::int64_t>(files.size()) : 0, size});
  if (matrix) std::fill_n(rows.data<float>(), rows.numel(), std::numeric_limits<float>::quiet_NaN());
  const std::size_t bad = locked + embed_pictures(files, embedder, detector.get(), s, [&](std::size_t i, const std::vector<EmbeddedFace>& faces) {
    std::vector<EmbeddedFace> found = faces;
    if (!s.raw)
      for (auto& f : found) l2_normalize(f.embedding);
    if (matrix) {
      if (!found.empty()) std::copy(found[0].embedding.begin(), found[0].embedding.end(), rows.data<float>() + static_cast<std::int64_t>(i) * size);
      return;
    }
    if (found.empty()) text += s.format == "csv" ? csv_line(files[i], nullptr, size) : json_line(files[i], nullptr);
    for (const auto& f : found) text += s.format == "csv" ? csv_line(files[i], &f, size) : json_line(files[i], &f);
    if (s.out.empty()) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      text.clear();
    }
  });
  if (matrix) save_npy(s.out, rows);
  else if (!s.out.empty()) write_file_atomic(s.out, std::as_bytes(std::span(text)));
  return bad == 0 || max_bad.allows(bad, files.size() + locked) ? 0 : code(Exit::bad_data);
}

int align(Settings& s) {
  const MaxBad max_bad = parse_max_bad(s.max_bad);
  std::vector<std::vector<std::string>> lists;
  std::vector<std::string> every;
  std::map<std::string, std::set<std::string>> stems;  // of the pictures that go into a folder
  // A folder keeps its shape (one folder a person stays one folder a person).
  const auto below = [](const std::string& path, const std::string& file) {
    return fs::is_directory(path) ? fs::relative(fs::path(file).parent_path(), path).string() : std::string(".");
  };
  std::size_t bad = 0;
  for (const auto& path : s.paths) {
    std::size_t locked = 0;
    lists.push_back(pictures_of({path}, "align", locked));
    bad += locked;
    every.insert(every.end(), lists.back().begin(), lists.back().end());
    for (const auto& f : lists.back()) stems[below(path, f)].insert(fs::path(f).stem().string());
  }
  for (const auto& [folder, names] : stems) keep_inputs("--out", every, folder == "." ? s.out : s.out + "/" + folder, names, ".png");
  make_folder("align", s.out);
  const EmbeddingSpec spec = Embedder::load(find_model(s.model)).spec();
  const auto detector = start_faces(s);
  std::set<std::string> used, folders;
  std::size_t total = bad, without = 0, written = 0;
  for (std::size_t l = 0; l < lists.size(); ++l) {
    const auto& files = lists[l];
    total += files.size();
    Counter counter(s.progress, files.size());
    for (std::size_t i = 0; i < files.size(); ++i) {
      counter.at(i);
      try {
        const auto faces = aligned_faces(read_image(files[i]), detector.get(), spec, face_choice(s));
        without += faces.empty();
        if (faces.empty()) counter.say(files[i] + ": no face");
        const std::string sub = below(s.paths[l], files[i]);
        if (folders.insert(sub).second) make_folder("align", s.out + "/" + sub);
        for (const auto& f : faces) {
          write_png(s.out + "/" + unique_leaf(files[i], used, ".png", sub == "." ? "" : sub + "/"), f.crop);
          ++written;
        }
      } catch (const IoError& e) {
        if (e.kind() == IoKind::cannot_create || e.kind() == IoKind::write_failed) throw;
        ++bad;
        counter.say(e.what());
      } catch (const ShapeError& e) {  // --aligned, and not a crop
        ++bad;
        counter.say(files[i] + ": " + e.what());
      }
    }
  }
  std::printf("%s: %zu crops of %ldx%ld (width x height) from %zu pictures, %zu without a face, %zu unreadable\n", s.out.c_str(), written, static_cast<long>(spec.width),
              static_cast<long>(spec.height), total, without, bad);
  return bad == 0 || max_bad.allows(bad, total) ? 0 : code(Exit::bad_data);
}

}  // namespace

Run add_embed(CLI::App& app) {
  auto s = std::make_shared<Settings>();
  app.add_option("PATH", s->paths, "Picture, folder (recursive, sorted) or @LIST (a file with one path a line)")->required();
  add_face_options(app, *s);
  add_face_choice(app, *s);
  app.add_flag("--flip", s->flip, "Add the embedding of the mirrored crop");
  app.add_flag("--raw", s->raw, "As the net gives it, without L2 normalisation");
  app.add_option("--format", s->format, "json (one line a face), csv, or npy (one row a picture, NaN without a face)")->check(CLI::IsMember({"json", "csv", "npy"}))->capture_default_str();
  app.add_option("--out", s->out, "File to write (default: stdout)");
  return [s] { return embed(*s); };
}

Run add_align(CLI::App& app) {
  auto s = std::make_shared<Settings>();
  app.add_option("PATH", s->paths, "Picture, folder (keeps its shape) or @LIST (a file with one path a line)")->required();
  app.add_option("--out", s->out, "Folder for the crops (PNG)")->required();
  add_face_options(app, *s);
  add_face_choice(app, *s);
  return [s] { return align(*s); };
}

}  // namespace mien::cli
