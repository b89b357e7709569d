#include "faces.h"

#include "checks.h"
#include "mien/kernels/parallel.h"
#include "mien/tensor/device.h"
#include "mien/tensor/error.h"

namespace mien::cli {

void add_face_options(CLI::App& app, FaceSettings& s) {
  app.add_option("--model", s.model, "Model file of a face-embedding net (default: $MIEN_MODEL, else ../share/mien/weights/mobilefacenet.safetensors)");
  app.add_option("--weights", s.weights, "Weights of the detector (default: $MIEN_WEIGHTS, then ../share/mien/weights/mtcnn.safetensors)");
  app.add_option("--min-face", s.detector.min_face, "Smallest face in pixels")->capture_default_str();
  app.add_option("--threads", s.threads, "Threads (default: all CPUs)")->check(at_least_one());
  app.add_option("--device", s.device, "auto, cpu or cuda[:n]")->capture_default_str();
  app.add_option("--progress", s.progress, "auto, on or off")->check(CLI::IsMember({"auto", "on", "off"}))->capture_default_str();
}

void add_face_choice(CLI::App& app, FaceSettings& s) {
  app.add_flag("--aligned", s.aligned, "The pictures are aligned crops already: no detection");
  app.add_option("--face", s.face, "Which face of a picture: centre (nearest to the picture's middle), largest or all")
      ->check(CLI::IsMember({"centre", "largest", "all"}))
      ->capture_default_str();
  app.add_option("--max-bad", s.max_bad, "How many pictures may be unreadable, N or P%, before the exit code is 65")->capture_default_str();
}

std::unique_ptr<Detector> start_faces(const FaceSettings& s) {
  DetectorOptions options = s.detector;
  options.device = Device::parse(s.device);
  if (s.threads > 0) set_num_threads(s.threads);
  return s.aligned ? nullptr : std::make_unique<Detector>(Detector::load(find_weights(s.weights, "mtcnn.safetensors"), options));
}

FaceChoice face_choice(const FaceSettings& s) { return s.face == "all" ? FaceChoice::all : s.face == "largest" ? FaceChoice::largest : FaceChoice::centre; }

std::size_t embed_pictures(const std::vector<std::string>& files, const Embedder& embedder, const Detector* detector, const FaceSettings& s,
                           const std::function<void(std::size_t, const std::vector<EmbeddedFace>&)>& take) {
  constexpr std::size_t batch = 32;
  Counter counter(s.progress, files.size());
  std::vector<Image> crops;
  std::vector<std::vector<EmbeddedFace>> waiting;  // of the pictures whose crops are not embedded yet
  std::size_t done = 0, bad = 0;
  const auto flush = [&] {
    const Tensor e = embedder.embed(crops, s.flip);
    const float* row = crops.empty() ? nullptr : e.data<float>();
    for (auto& faces : waiting) {
      for (auto& f : faces) {
        f.embedding.assign(row, row + embedder.spec().size);
        row += embedder.spec().size;
      }
      take(done++, faces);
    }
    crops.clear();
    waiting.clear();
  };
  for (std::size_t i = 0; i < files.size(); ++i) {
    counter.at(i);
    waiting.emplace_back();
    try {
      for (auto& f : aligned_faces(read_image(files[i]), detector, embedder.spec(), face_choice(s))) {
        waiting.back().push_back({f.face, {}});
        crops.push_back(std::move(f.crop));
      }
      if (waiting.back().empty()) counter.say(files[i] + ": no face");
    } catch (const IoError& e) {
      ++bad;
      counter.say(e.what());
    } catch (const ShapeError& e) {  // --aligned, and not a crop
      ++bad;
      counter.say(files[i] + ": " + e.what());
    }
    if (crops.size() >= batch || waiting.size() >= 8 * batch) flush();
  }
  flush();
  return bad;
}

}  // namespace mien::cli
