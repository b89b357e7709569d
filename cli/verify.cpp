// mien verify: do two pictures show the same person?
#include <cstdio>
#include <memory>

#include "exit_codes.h"
#include "faces.h"
#include "mien/tensor/error.h"

namespace mien::cli {
namespace {

struct Settings : FaceSettings {
  std::string a, b, format = "text";
  std::optional<double> threshold;
};

int verify(Settings& s) {
  if (s.threshold && !(*s.threshold > 0 && *s.threshold <= 4)) throw ValueError("--threshold", "a squared distance of unit vectors lies between 0 and 4, got " + std::to_string(*s.threshold));
  const Embedder embedder = Embedder::load(find_model(s.model), Device::parse(s.device));
  if (!s.threshold && !embedder.spec().threshold)
    throw ValueError("verify", find_model(s.model) + " holds no threshold", "Give one with --threshold; `mien eval lfw --calibrated` finds it on pairs of pictures and writes it into the model.");
  if (s.flip && !s.threshold && !embedder.spec().threshold_flip)
    std::fprintf(stderr, "mien: %s does not say whether its threshold is for --flip\n", find_model(s.model).c_str());
  const auto detector = start_faces(s);
  const Image a = read_image(s.a), b = read_image(s.b);
  const Verification v = mien::verify(*detector, embedder, a, b, s.threshold, s.flip ? std::optional(true) : std::nullopt);
  const std::string source = s.threshold ? "--threshold" : v.threshold_source;
  for (const auto& [name, face] : {std::pair{&s.a, &v.a}, std::pair{&s.b, &v.b}})
    if (!*face) std::fprintf(stderr, "mien: %s: no face\n", name->c_str());
  const char* verdict = !v.distance ? "no face" : v.same ? "same" : "different";
  if (s.format == "json") {
    Json line{{"schema", "mien.verify/1"}, {"a", {{"file", s.a}}}, {"b", {{"file", s.b}}}, {"distance", nullptr}, {"threshold", v.threshold}, {"threshold_source", source},
              {"margin", nullptr}, {"verdict", verdict}};
    for (const auto& [key, face] : {std::pair{"a", &v.a}, std::pair{"b", &v.b}}) {
      line[key].update(Json{{"box", nullptr}, {"score", nullptr}, {"points", nullptr}});
      if (*face) line[key].update(face_json(**face));
    }
    if (v.distance) {
      line["distance"] = *v.distance;
      line["margin"] = v.threshold - *v.distance;
    }
    print_line(line);
  } else if (v.distance) {
    std::printf("%s: distance %.4f, threshold %.4f (%s), margin %+.4f\n", verdict, *v.distance, v.threshold, source.c_str(), v.threshold - *v.distance);
    for (const auto& [name, face] : {std::pair{&s.a, &v.a}, std::pair{&s.b, &v.b}})
      std::printf("  %s: box %.1f %.1f %.1f %.1f, score %.4f\n", name->c_str(), static_cast<double>((*face)->box[0]), static_cast<double>((*face)->box[1]),
                  static_cast<double>((*face)->box[2]), static_cast<double>((*face)->box[3]), static_cast<double>((*face)->score));
  }
  return !v.distance ? code(Exit::no_face) : v.same ? 0 : code(Exit::no);
}

}  // namespace

Run add_verify(CLI::App& app) {
  auto s = std::make_shared<Settings>();
  app.add_option("A", s->a, "A picture; the face nearest to its middle is taken")->required();
  app.add_option("B", s->b, "Another one")->required();
  add_face_options(app, *s);
  app.add_flag("--flip", s->flip, "Add the embedding of the mirrored crop (without --threshold: as the model file's threshold was found)");
  app.add_option("--threshold", s->threshold, "Squared distance below which two faces are the same person's (default: the model file's)");
  app.add_option("--format", s->format, "text or json")->check(CLI::IsMember({"text", "json"}))->capture_default_str();
  return [s] { return verify(*s); };
}

}  // namespace mien::cli
