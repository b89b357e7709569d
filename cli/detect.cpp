// mien detect: faces of pictures as text, JSON lines or CSV; pictures with boxes; crops.
#include <cstdio>
#include <memory>

#include "checks.h"
#include "commands.h"
#include "exit_codes.h"
#include "mien/data/encode.h"
#include "mien/face/detector.h"
#include "mien/face/draw.h"
#include "mien/kernels/parallel.h"
#include "mien/tensor/device.h"
#include "mien/tensor/error.h"

namespace mien::cli {
namespace {

struct Settings {
  std::vector<std::string> paths;
  std::string weights, format = "text", draw, crops, max_bad = "0", device = "auto", progress = "auto";
  DetectorOptions detector;
  std::vector<float> thresholds{.6f, .7f, .7f};
  int threads = 0;
};

void print_json(const std::string& file, const Image& image, const std::vector<Face>& faces) {
  Json line{{"schema", "mien.detect/1"}, {"file", file}, {"width", image.width}, {"height", image.height}, {"faces", Json::array()}};
  for (const auto& f : faces) line["faces"].push_back(face_json(f));
  print_line(line);
}

void print_csv(const std::string& file, const std::vector<Face>& faces) {
  for (const auto& f : faces) {
    std::printf("%s", csv_field(file).c_str());
    for (const float v : f.box) std::printf(",%.9g", static_cast<double>(v));
    std::printf(",%.9g", static_cast<double>(f.score));
    for (const auto& p : f.points) std::printf(",%.9g,%.9g", static_cast<double>(p[0]), static_cast<double>(p[1]));
    std::printf("\n");
  }
}

void print_text(const std::string& file, const std::vector<Face>& faces) {
  std::printf("%s: %zu face%s\n", file.c_str(), faces.size(), faces.size() == 1 ? "" : "s");
  for (const auto& f : faces)
    std::printf("  %.4f  box %.1f %.1f %.1f %.1f\n", static_cast<double>(f.score), static_cast<double>(f.box[0]), static_cast<double>(f.box[1]), static_cast<double>(f.box[2]),
                static_cast<double>(f.box[3]));
}

int detect(Settings& s) {
  if (s.thresholds.size() != 3) throw ValueError("--thresholds", "expected three numbers such as .6,.7,.7, got " + std::to_string(s.thresholds.size()));
  std::copy(s.thresholds.begin(), s.thresholds.end(), s.detector.thresholds.begin());
  s.detector.device = Device::parse(s.device);
  if (s.threads > 0) set_num_threads(s.threads);
  const MaxBad max_bad = parse_max_bad(s.max_bad);
  std::size_t locked = 0;
  const auto files = pictures_of(s.paths, "detect", locked);
  if (!s.draw.empty()) keep_inputs("--draw", files, s.draw, stems_of(files), ".png");
  if (!s.crops.empty()) keep_inputs("--save-crops", files, s.crops, stems_of(files), "-face.png");
  const Detector detector = Detector::load(find_weights(s.weights, "mtcnn.safetensors"), s.detector);
  make_folder("detect", s.draw);
  make_folder("detect", s.crops);
  if (s.format == "csv") std::printf("file,x1,y1,x2,y2,score,left_eye_x,left_eye_y,right_eye_x,right_eye_y,nose_x,nose_y,mouth_left_x,mouth_left_y,mouth_right_x,mouth_right_y\n");
  Counter counter(s.progress, files.size());
  std::set<std::string> used_draw, used_crop;
  std::size_t bad = locked;
  for (std::size_t i = 0; i < files.size(); ++i) {
    counter.at(i);
    try {
      Image image = read_image(files[i]);
      const auto faces = detector.detect(image);
      if (s.format == "json") print_json(files[i], image, faces);
      else if (s.format == "csv") print_csv(files[i], faces);
      else print_text(files[i], faces);
      if (!s.crops.empty())
        for (const auto& f : faces)
          if (const Image crop = crop_face(image, f); crop.width > 0) write_image(s.crops + "/" + unique_leaf(files[i], used_crop, "-face.png"), crop);
      if (!s.draw.empty()) {
        draw_faces(image, faces);
        write_image(s.draw + "/" + unique_leaf(files[i], used_draw, ".png"), image);
      }
    } catch (const IoError& e) {
      if (e.kind() == IoKind::cannot_create || e.kind() == IoKind::write_failed) throw;
      ++bad;
      counter.say(e.what());
    }
  }
  return bad == 0 || max_bad.allows(bad, files.size() + locked) ? 0 : code(Exit::bad_data);
}

}  // namespace

Run add_detect(CLI::App& app) {
  auto s = std::make_shared<Settings>();
  app.add_option("PATH", s->paths, "Picture, folder (recursive, sorted) or @LIST (a file with one path a line)")->required();
  app.add_option("--weights", s->weights, "Weights (default: $MIEN_WEIGHTS, then ../share/mien/weights/mtcnn.safetensors)");
  app.add_option("--min-face", s->detector.min_face, "Smallest face in pixels")->capture_default_str();
  app.add_option("--thresholds", s->thresholds, "Scores that P-, R- and O-Net must reach")->delimiter(',')->default_str(".6,.7,.7");
  app.add_option("--factor", s->detector.factor, "Between the sizes of the pyramid")->capture_default_str();
  app.add_flag("--zero-pad-crops", s->detector.zero_pad_crops, "Crops beyond the picture are filled with zeros, as the authors did");
  app.add_option("--format", s->format, "text, json (one line a picture) or csv (one line a face)")->check(CLI::IsMember({"text", "json", "csv"}))->capture_default_str();
  app.add_option("--draw", s->draw, "Folder for pictures with boxes, points and scores");
  app.add_option("--save-crops", s->crops, "Folder for the cut-out faces");
  app.add_option("--threads", s->threads, "Threads (default: all CPUs)")->check(at_least_one());
  app.add_option("--max-bad", s->max_bad, "How many pictures may be unreadable, N or P%, before the exit code is 65")->capture_default_str();
  app.add_option("--device", s->device, "auto, cpu or cuda[:n]")->capture_default_str();
  app.add_option("--progress", s->progress, "auto, on or off")->check(CLI::IsMember({"auto", "on", "off"}))->capture_default_str();
  return [s] { return detect(*s); };
}

}  // namespace mien::cli
