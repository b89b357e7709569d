// All aligned crops of a set of people in memory, and a file that keeps them from one training to the next.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "mien/data/people.h"
#include "mien/face/align.h"

namespace mien {

struct AlignedSet {
  Tensor crops;                       // u8 [N, height + 2 border, width + 2 border, 3]
  std::vector<std::int64_t> person;   // of each crop: 0..names - 1
  std::vector<std::string> names;     // people with at least one crop
  std::vector<std::string> files;     // of each crop: the picture it comes from
  std::int64_t border = 0;            // pixels around what the net sees
  std::int64_t without_face = 0, several_faces = 0;
  std::vector<std::string> unreadable;  // one message each
  std::int64_t count() const { return static_cast<std::int64_t>(person.size()); }
  std::size_t pictures() const { return files.size() + static_cast<std::size_t>(without_face) + unreadable.size(); }  // that were looked at
  View crop(std::int64_t i) const;      // u8 [3, H, W] view of crop i
};

struct AlignOptions {
  std::int64_t border = 8;
  std::string cache;  // a .safetensors file; empty: none. It is used again when pictures (names, sizes, times), detector and template are the same, else made anew;
                      // another kind of file there is refused (IoError) and stays as it is
  std::string detector_id;  // whatever names the detector's weights and options, e.g. their digest
  std::function<void(std::size_t done, std::size_t total)> progress;  // before each picture
  std::function<bool()> stop;  // asked before each picture: true ends with those before it, and a call with the same cache goes on from there
};
// The face nearest to the middle of each picture. Unreadable pictures and those without a face are counted and left out; people without any crop too.
AlignedSet align_people(const People& people, const Detector& detector, const EmbeddingSpec& spec, const AlignOptions& options);

}  // namespace mien
