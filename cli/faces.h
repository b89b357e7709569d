// What the commands on aligned faces (embed, verify, align, eval) share: the detector, the model, and which face of a picture is meant.
#pragma once

#include <memory>

#include "commands.h"
#include "mien/face/embedder.h"

namespace mien::cli {

struct FaceSettings {
  std::string model, weights, device = "auto", progress = "auto", max_bad = "0", face = "centre";
  DetectorOptions detector{.min_face = 40};  // smaller faces have too few pixels to tell people apart
  bool aligned = false, flip = false;
  int threads = 0;
};
void add_face_options(CLI::App& app, FaceSettings& settings);
void add_face_choice(CLI::App& app, FaceSettings& settings);

// Device and threads are set, the detector is loaded unless the pictures are crops already.
std::unique_ptr<Detector> start_faces(const FaceSettings& settings);
FaceChoice face_choice(const FaceSettings& settings);

struct EmbeddedFace {
  std::optional<Face> face;  // none: the picture was a crop
  Embedding embedding;       // as the net gives it, not normalised
};
// Reads, aligns and embeds in batches; calls `take` once for every picture, in order: its faces, empty when there is none or it can't be read (then the reason
// goes to stderr). Returns how many pictures could not be read.
std::size_t embed_pictures(const std::vector<std::string>& files, const Embedder& embedder, const Detector* detector, const FaceSettings& settings,
                           const std::function<void(std::size_t index, const std::vector<EmbeddedFace>& faces)>& take);

}  // namespace mien::cli
