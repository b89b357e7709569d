// mien eval lfw: how well embeddings tell people apart, by the protocol of LFW.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>

#include "checks.h"
#include "exit_codes.h"
#include "faces.h"
#include "folds.h"
#include "mien/data/encode.h"
#include "mien/data/lfw.h"
#include "mien/data/plot.h"
#include "mien/face/sheet.h"
#include "mien/io/file.h"
#include "mien/io/safetensors.h"
#include "mien/io/torch_file.h"
#include "mien/metrics/roc.h"
#include "mien/metrics/verification.h"
#include "mien/tensor/error.h"

namespace fs = std::filesystem;

namespace mien::cli {
namespace {

struct Settings : FaceSettings {
  std::string images, pairs, embeddings, list, out, calibrated, format = "text";
  std::vector<int> folds;
  int inner = 0;
};

// One row a picture of the pairs; NaN where there is no face.
struct Rows {
  std::vector<float> values;
  std::int64_t width = 0;
  std::size_t unreadable = 0;
};

Rows embed(const Settings& s, const LfwPairs& pairs) {
  const Embedder embedder = Embedder::load(find_model(s.model), Device::parse(s.device));
  const auto detector = start_faces(s);
  std::vector<std::string> files;
  for (const auto& p : pairs.pictures) files.push_back(s.images + "/" + p);
  Rows rows;
  rows.width = embedder.spec().size;
  rows.values.assign(files.size() * static_cast<std::size_t>(rows.width), NAN);
  rows.unreadable = embed_pictures(files, embedder, detector.get(), s, [&](std::size_t i, const std::vector<EmbeddedFace>& faces) {
    if (!faces.empty()) std::copy(faces[0].embedding.begin(), faces[0].embedding.end(), rows.values.begin() + static_cast<std::ptrdiff_t>(i) * rows.width);
  });
  return rows;
}

// numpy's text array as UTF-8.
std::vector<std::string> texts(const Tensor& points, const std::string& file) {
  if (points.dtype() != DType::i32 || points.rank() != 2) throw IoError(IoKind::bad_data, "eval lfw", file, "expected 'paths' to be a list of texts, got " + describe(points));
  std::vector<std::string> out;
  for (std::int64_t i = 0; i < points.size(0); ++i) {
    std::string text;
    for (std::int64_t k = 0; k < points.size(1); ++k) {
      const auto c = static_cast<std::uint32_t>(points.data<std::int32_t>()[i * points.size(1) + k]);
      const auto byte = [&](std::uint32_t v) { text += static_cast<char>(v); };
      const auto rest = [&](int shift) { byte(0x80 | (c >> shift & 0x3f)); };
      if (c == 0) break;
      if (c < 0x80) byte(c);
      else if (c < 0x800) byte(0xc0 | c >> 6), rest(0);
      else if (c < 0x10000) byte(0xe0 | c >> 12), rest(6), rest(0);
      else byte(0xf0 | (c >> 18 & 7)), rest(12), rest(6), rest(0);
    }
    out.push_back(text);
  }
  return out;
}

std::vector<std::string> lines_of(const std::string& path) {
  const auto bytes = read_file(path);
  std::vector<std::string> lines;
  std::string line;
  for (const auto b : bytes) {
    if (const char c = static_cast<char>(b); c != '\n') line += c;
    else lines.push_back(std::exchange(line, {}));
  }
  if (!line.empty()) lines.push_back(line);
  return lines;
}

Rows read_embeddings(const Settings& s, const LfwPairs& pairs) {
  const auto bad = [](const std::string& file, const std::string& why) { return IoError(IoKind::bad_data, "eval lfw", file, why); };
  const TensorFile file = load_tensors(s.embeddings);
  const Tensor* values = s.list.empty() ? file.find("rows") : &file.tensors.at(0).second;
  const Tensor* names = s.list.empty() ? file.find("paths") : nullptr;
  if (!values || (s.list.empty() && !names))
    throw IoError(IoKind::bad_data, "eval lfw", s.embeddings, "expected the arrays 'paths' and 'rows'", "Name the pictures of a .npy with --list.");
  if (values->dtype() != DType::f32 || values->rank() != 2 || values->size(1) < 1) throw bad(s.embeddings, "expected rows of f32, got " + describe(*values));
  const auto paths = names ? texts(*names, s.embeddings) : lines_of(s.list);
  if (static_cast<std::int64_t>(paths.size()) != values->size(0))
    throw bad(names ? s.embeddings : s.list, "names " + std::to_string(paths.size()) + " pictures for " + std::to_string(values->size(0)) + " rows");
  std::map<std::string, std::int64_t> at;  // by the path below the folder of pictures
  for (std::size_t i = 0; i < paths.size(); ++i) {
    const fs::path whole = fs::path(paths[i]).lexically_normal(), below = s.images.empty() ? fs::path() : whole.lexically_relative(fs::path(s.images).lexically_normal());
    at[below.empty() || *below.begin() == ".." ? whole.string() : below.string()] = static_cast<std::int64_t>(i);
  }
  Rows rows;
  rows.width = values->size(1);
  std::vector<std::string> missing;
  for (const auto& p : pairs.pictures) {
    const auto found = at.find(p);
    if (found == at.end()) missing.push_back(p);
    else rows.values.insert(rows.values.end(), values->data<float>() + found->second * rows.width, values->data<float>() + (found->second + 1) * rows.width);
  }
  if (!missing.empty())
    throw bad(s.embeddings, "has no row for " + std::to_string(missing.size()) + " of the " + std::to_string(pairs.pictures.size()) + " pictures of the pairs, the first is " + missing[0]);
  return rows;
}

// The judged pairs and what was found on them.
struct Result {
  LfwPairs pairs;
  FoldAccuracy accuracy;
  std::vector<double> distances;      // of all pairs
  std::vector<std::size_t> judged;    // indices of pairs
  std::int64_t no_face = 0;           // judged pairs without a distance
  std::vector<double> seen;           // distances of the judged pairs with faces
  std::vector<char> seen_same;
  // Only where pairs of both kinds have faces.
  struct Curves {
    Roc roc, ordered;  // equal distances merged; in file order
    double average_precision;
    Calibration best, far_2, far_3;  // for accuracy, for FAR 1e-2 and 1e-3
  };
  std::optional<Curves> curves;
};

Result judge(const FoldOptions& options, LfwPairs pairs, const Rows& rows) {
  Result r;
  r.distances = squared_distances(rows.values, rows.width, pairs.pairs);
  r.accuracy = fold_accuracy(r.distances, pairs.same, pairs.fold, options);
  std::vector<double> scores;
  for (std::size_t i = 0; i < r.distances.size(); ++i) {
    if (r.accuracy.part[i] < 0) continue;
    r.judged.push_back(i);
    if (std::isnan(r.distances[i])) {
      ++r.no_face;
      continue;
    }
    r.seen.push_back(r.distances[i]);
    r.seen_same.push_back(pairs.same[i]);
    scores.push_back(-r.distances[i]);
  }
  const auto people = std::count(r.seen_same.begin(), r.seen_same.end(), 1);
  if (people > 0 && people < static_cast<std::ptrdiff_t>(r.seen_same.size()))
    r.curves = Result::Curves{roc_curve(scores, r.seen_same), roc_curve(scores, r.seen_same, Ties::in_order), average_precision(scores, r.seen_same),
                              calibrate_accuracy(r.seen, r.seen_same), calibrate_far(r.seen, r.seen_same, 1e-2), calibrate_far(r.seen, r.seen_same, 1e-3)};
  r.pairs = std::move(pairs);
  return r;
}

Json json_of(const Rate& r) { return {{"value", r.value}, {"interval", {r.low, r.high}}, {"hits", r.hits}, {"of", r.total}}; }
Json finite(double v) { return std::isfinite(v) ? Json(v) : Json(); }
Json json_of(const Calibration& c) {
  return {{"threshold", finite(c.threshold)}, {"threshold_interval", {finite(c.threshold_low), finite(c.threshold_high)}}, {"accuracy", json_of(c.accuracy)},
          {"true_accept", json_of(c.true_accept)}, {"false_accept", json_of(c.false_accept)}};
}

Json summary(const Settings& s, const Result& r) {
  const auto& a = r.accuracy;
  Json j{{"schema", "mien.eval_lfw/1"}, {"pairs_file", s.pairs}, {"model", s.embeddings.empty() ? find_model(s.model) : s.embeddings}};
  j["asked_folds"] = s.folds;
  j["inner"] = s.inner;
  j["pairs"] = r.judged.size();
  j["no_face"] = r.no_face;
  j["accuracy"] = a.mean;
  j["std"] = a.deviation;
  j["standard_error"] = a.standard_error;
  j["folds"] = a.accuracy;
  j["thresholds"] = a.threshold;
  const auto& c = r.curves;
  // In file order, nearest point: the definitions of scripts for LFW. The four after them don't depend on the order of equal distances.
  j["auc"] = c ? Json(auc(c->ordered)) : Json();
  j["eer"] = c ? Json(equal_error_rate(c->ordered, EerRule::nearest_point)) : Json();
  j["tar@far0.01"] = c ? Json(tpr_at_fpr(c->ordered, 1e-2)) : Json();
  j["tar@far0.001"] = c ? Json(tpr_at_fpr(c->ordered, 1e-3)) : Json();
  j["tar@far0.0001"] = c ? Json(tpr_at_fpr(c->ordered, 1e-4)) : Json();
  j["auc_ties_half"] = c ? Json(auc(c->roc)) : Json();
  j["eer_interpolated"] = c ? Json(equal_error_rate(c->roc)) : Json();
  j["average_precision"] = c ? Json(c->average_precision) : Json();
  if (!c) {
    j["calibration"] = Json();
    return j;
  }
  j["calibration"] = {{"distance", "squared L2 of normalised embeddings; the same person when below the threshold"},
                      {"intervals", "95 %: rates by Wilson's score, thresholds by 1000 bootstrap resamples (Philox, seed 0)"},
                      {"best_accuracy", json_of(c->best)}, {"far0.01", json_of(c->far_2)}, {"far0.001", json_of(c->far_3)}};
  return j;
}

std::string joined(const std::vector<int>& v) {
  std::string out;
  for (const int x : v) out += (out.empty() ? "" : ",") + std::to_string(x);
  return out;
}

void print_text(const Settings& s, const Result& r) {
  const auto& a = r.accuracy;
  std::printf("%s: %zu pairs", s.pairs.c_str(), r.judged.size());
  if (!s.folds.empty()) std::printf(" of fold %s", joined(s.folds).c_str());
  if (s.inner > 0) std::printf(" in %d parts", s.inner);
  std::printf(", %lld with a picture without a face (counted as wrong)\n\n", static_cast<long long>(r.no_face));
  std::printf("  accuracy           %.5f +- %.5f (deviation of %zu folds; standard error %.5f)\n", a.mean, a.deviation, a.accuracy.size(), a.standard_error);
  if (const auto& c = r.curves) {
    std::printf("  AUC                %.5f\n  EER                %.5f\n", auc(c->ordered), equal_error_rate(c->ordered, EerRule::nearest_point));
    std::printf("  TAR at FAR 1 %%     %.4f\n  TAR at FAR 0.1 %%   %.4f\n  TAR at FAR 0.01 %%  %.4f\n", tpr_at_fpr(c->ordered, 1e-2), tpr_at_fpr(c->ordered, 1e-3),
                tpr_at_fpr(c->ordered, 1e-4));
  }
  std::printf("\n  %s  threshold  accuracy\n", s.inner > 0 ? "part" : "fold");
  for (std::size_t i = 0; i < a.accuracy.size(); ++i) {
    const int label = s.inner > 0 || s.folds.empty() ? static_cast<int>(i) + 1 : s.folds[i];
    std::printf("  %4d  %9.2f  %8.4f\n", label, a.threshold[i], a.accuracy[i]);
  }
  if (!r.curves) return;
  std::printf("\n  chosen on these pairs  threshold (95 %%)        same accepted (95 %%)      different accepted (95 %%)\n");
  for (const auto& [name, c] : {std::pair<const char*, const Calibration&>{"best accuracy", r.curves->best}, {"FAR 1 %", r.curves->far_2}, {"FAR 0.1 %", r.curves->far_3}})
    std::printf("  %-21s  %.4f (%.4f..%.4f)  %.4f (%.4f..%.4f)  %.5f (%.5f..%.5f)\n", name, c.threshold, c.threshold_low, c.threshold_high, c.true_accept.value, c.true_accept.low,
                c.true_accept.high, c.false_accept.value, c.false_accept.low, c.false_accept.high);
}

void write_text(const std::string& path, const std::string& text) { write_file_atomic(path, std::as_bytes(std::span(text))); }
std::string digits(double v, const char* format = "%.17g") {
  char text[40];
  std::snprintf(text, sizeof text, format, v);
  return text;
}

double threshold_of(const Result& r, std::size_t pair) { return r.accuracy.threshold[static_cast<std::size_t>(r.accuracy.part[pair])]; }
const std::string& picture(const Result& r, std::size_t pair, std::size_t which) { return r.pairs.pictures[static_cast<std::size_t>(r.pairs.pairs[pair][which])]; }

void write_tables(const std::string& out, const Result& r) {
  std::string text = "a,b,fold,same,distance,threshold,verdict\n";
  for (const auto i : r.judged) {
    const double d = r.distances[i], t = threshold_of(r, i);
    text += csv_field(picture(r, i, 0)) + ',' + csv_field(picture(r, i, 1)) + ',' + std::to_string(r.pairs.fold[i] + 1) + ',' + (r.pairs.same[i] ? "1," : "0,") +
            (std::isnan(d) ? "" : digits(d)) + ',' + digits(t, "%.2f") + ',' + (std::isnan(d) ? "no_face" : d < t ? "same" : "different") + '\n';
  }
  write_text(out + "/pairs.csv", text);
  if (!r.curves) return;
  const Roc& roc = r.curves->roc;
  text = "distance,far,tar\n";  // accepted: pairs of at most this distance
  for (std::size_t i = 1; i < roc.fpr.size(); ++i) text += digits(-roc.threshold[i]) + ',' + digits(roc.fpr[i]) + ',' + digits(roc.tpr[i]) + '\n';
  write_text(out + "/roc.csv", text);
}

Curve histogram(const std::string& name, const Result& r, char same) {
  constexpr int bins = 80;  // of 0..4
  Curve c{name, {}, std::vector<double>(bins, 0), Curve::Look::steps};
  for (int k = 0; k <= bins; ++k) c.x.push_back(4.0 * k / bins);
  for (std::size_t i = 0; i < r.seen.size(); ++i)
    if (r.seen_same[i] == same) c.y[static_cast<std::size_t>(std::clamp(static_cast<int>(r.seen[i] / 4 * bins), 0, bins - 1))] += 1;
  return c;
}

void write_charts(const std::string& out, const Result& r) {
  if (!r.curves) return;
  const auto& [roc, ordered, precision, best, far_2, far_3] = *r.curves;
  const double negatives = static_cast<double>(best.false_accept.total), first = std::pow(10, std::floor(std::log10(1 / negatives)));
  const double floor = std::min(.9, std::floor(tpr_at_fpr(roc, first) * 10) / 10), eer = equal_error_rate(roc);
  const double room = eer > .12 ? 1 : std::max(.05, std::ceil(eer * 80) / 20);  // of the linear chart: four times the EER
  const Curve curve{"AUC " + digits(auc(roc), "%.4f") + ", EER " + digits(100 * eer, "%.2f") + " %", roc.fpr, roc.tpr};
  Curve chance{"chance", {}, {}, Curve::Look::dashed}, equal{"equal error", {0, room}, {1, 1 - room}, Curve::Look::dashed};
  for (double far = first; far <= 1.0001; far *= std::pow(10, .05)) chance.x.push_back(far), chance.y.push_back(far);
  const std::string far_label = "false accept rate (different people taken for one)", tar_label = "true accept rate";
  write_chart(out + "/roc", {.title = "ROC, " + std::to_string(r.seen.size()) + " pairs", .x_label = far_label, .y_label = tar_label, .curves = {curve, chance}, .log_x = true,
                             .x_range = std::array{first, 1.0}, .y_range = std::array{floor, 1.0}});
  write_chart(out + "/roc_linear", {.title = "ROC, linear axes", .x_label = far_label, .y_label = tar_label, .curves = {curve, equal}, .x_range = std::array{0.0, room},
                                    .y_range = std::array{1 - room, 1.0}});
  const Curve line{"threshold " + digits(best.threshold, "%.2f"), {best.threshold}, {}, Curve::Look::vertical};
  const std::string distance = "squared L2 distance of embeddings (0 to 4)";
  write_chart(out + "/distances", {.title = "Distances of pairs", .x_label = distance, .y_label = "pairs",
                                   .curves = {histogram("one person: " + std::to_string(best.true_accept.total), r, 1), histogram("two people: " + std::to_string(best.false_accept.total), r, 0), line},
                                   .x_range = std::array{0.0, 4.0}});
  Curve accuracy{"right answers", lfw_thresholds(), {}}, accepts{"one person accepted", accuracy.x, {}}, rejects{"two people rejected", accuracy.x, {}};
  for (const double t : accuracy.x) {
    double yes = 0, no = 0;
    for (std::size_t i = 0; i < r.seen.size(); ++i) (r.seen_same[i] ? yes : no) += (r.seen[i] < t) == (r.seen_same[i] != 0) ? 1 : 0;
    accuracy.y.push_back((yes + no) / static_cast<double>(r.judged.size()));
    accepts.y.push_back(yes / static_cast<double>(best.true_accept.total));
    rejects.y.push_back(no / negatives);
  }
  write_chart(out + "/accuracy", {.title = "Accuracy by threshold", .x_label = "threshold: " + distance, .y_label = "share", .curves = {accuracy, accepts, rejects, line},
                                  .x_range = std::array{0.0, 4.0}, .y_range = std::array{0.0, 1.0}});
}

// False rejects and false accepts, the worst first.
void write_worst(const std::string& out, const Settings& s, const Result& r) {
  constexpr std::size_t rows = 6;
  std::vector<SheetColumn> columns;
  for (const bool same : {true, false}) {
    std::vector<std::size_t> wrong;
    for (const auto i : r.judged)
      if ((r.pairs.same[i] != 0) == same && !std::isnan(r.distances[i]) && (r.distances[i] < threshold_of(r, i)) != same) wrong.push_back(i);
    std::stable_sort(wrong.begin(), wrong.end(), [&](std::size_t a, std::size_t b) { return same ? r.distances[a] > r.distances[b] : r.distances[a] < r.distances[b]; });
    SheetColumn column{(same ? "One person, rejected: " : "Two people, accepted: ") + std::to_string(wrong.size()), {}};
    for (const auto i : std::span(wrong).first(std::min(rows, wrong.size()))) {
      const auto load = [&](std::size_t which) {
        try {
          return read_image(s.images + "/" + picture(r, i, which));
        } catch (const IoError&) {
          return Image{};
        }
      };
      const auto name = [&](std::size_t which) { return fs::path(picture(r, i, which)).stem().string(); };
      column.pairs.push_back({load(0), load(1), name(0), name(1), "distance " + digits(r.distances[i], "%.3f") + ", threshold " + digits(threshold_of(r, i), "%.2f")});
    }
    columns.push_back(std::move(column));
  }
  write_png(out + "/worst_pairs.png", contact_sheet("Worst pairs", columns, 160));
}

// The same model with a threshold to decide by.
void save_calibrated(const Settings& s, const Result& r) {
  if (!r.curves) throw IoError(IoKind::bad_data, "eval lfw", s.pairs, "holds no pairs of both kinds with faces: no threshold can be chosen");
  const std::string model = find_model(s.model);
  TensorFile file = load_safetensors(model);
  EmbeddingSpec spec = EmbeddingSpec::from_metadata(file.metadata, model);
  spec.threshold = r.curves->best.threshold;
  spec.threshold_source = "best accuracy (" + digits(r.curves->best.accuracy.value, "%.4f") + ") on " + std::to_string(r.seen.size()) + " pairs of " + fs::path(s.pairs).filename().string() +
                          (s.folds.empty() ? "" : ", fold " + joined(s.folds)) + (s.flip ? ", mirrored crops added" : "");
  spec.threshold_flip = s.flip;
  for (const auto& [key, value] : spec.to_metadata()) file.metadata[key] = value;
  save_safetensors(s.calibrated, file);
}

int eval_lfw(const Settings& s) {
  if (!s.calibrated.empty() && !s.embeddings.empty()) throw ValueError("--calibrated", "needs a model, not embeddings made before");
  if (s.embeddings.empty() && s.images.empty()) throw ValueError("eval lfw", "needs --images, the folder with Name/Name_0001.jpg in it");
  LfwPairs pairs = read_lfw_pairs(s.pairs);
  if (s.embeddings.empty()) check_lfw_pictures(pairs, s.images);
  const FoldOptions options = chosen_folds(s.folds, s.inner, pairs, s.pairs, "--folds", "--inner");
  make_folder("eval lfw", s.out);
  if (!s.calibrated.empty()) check_can_write(s.calibrated);
  const Rows rows = s.embeddings.empty() ? embed(s, pairs) : read_embeddings(s, pairs);
  const Result r = judge(options, std::move(pairs), rows);
  const Json j = summary(s, r);
  // Before the files: a full disk must not take the result along.
  if (s.format == "json") std::printf("%s\n", j.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  else print_text(s, r);
  std::fflush(stdout);
  if (!s.out.empty()) {
    write_text(s.out + "/summary.json", j.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    write_tables(s.out, r);
    write_charts(s.out, r);
    if (!s.images.empty()) write_worst(s.out, s, r);
  }
  if (!s.calibrated.empty()) save_calibrated(s, r);
  return rows.unreadable == 0 ? 0 : code(Exit::bad_data);
}

}  // namespace

Run add_eval(CLI::App& app) {
  auto s = std::make_shared<Settings>();
  CLI::App* lfw = app.add_subcommand("lfw", "Accuracy, ROC and thresholds on pairs of faces, by the protocol of LFW");
  app.require_subcommand(1);
  lfw->add_option("--pairs", s->pairs, "Pair list in the format of LFW's pairs.txt")->required();
  lfw->add_option("--images", s->images, "Folder with Name/Name_0001.jpg");
  add_face_options(*lfw, *s);
  lfw->add_flag("--aligned", s->aligned, "The pictures are aligned faces already: no detector");
  lfw->add_flag("--flip", s->flip, "Add the embedding of the mirrored crop");
  auto* embeddings = lfw->add_option("--embeddings", s->embeddings, "Embeddings made before instead of a model: .npz with paths and rows, or .npy with --list")->excludes("--model");
  lfw->add_option("--list", s->list, "File with the picture of each row of --embeddings, one a line")->needs(embeddings);
  lfw->add_option("--folds", s->folds, "Folds to judge, from 1 (default: all)")->delimiter(',');
  lfw->add_option("--inner", s->inner, "Choose thresholds within the judged folds, dealt into so many parts (for models trained on people of the others)")->check(whole_number(2, 1000));
  lfw->add_option("--out", s->out, "Folder for summary.json, pairs.csv, roc.csv, charts (PNG and SVG) and the worst pairs");
  lfw->add_option("--format", s->format, "text or json")->check(CLI::IsMember({"text", "json"}))->capture_default_str();
  lfw->add_option("--calibrated", s->calibrated, "Write the model to this file with the threshold of best accuracy on the judged pairs in it");
  return [s] { return eval_lfw(*s); };
}

}  // namespace mien::cli
