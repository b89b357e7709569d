#include "mien/face/aligned_set.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "mien/io/crc32c.h"
#include "mien/io/file.h"
#include "mien/io/safetensors.h"

namespace mien {
namespace {

// The crop with `border` more pixels on each side, the face in the same place and size.
EmbeddingSpec with_border(EmbeddingSpec spec, std::int64_t border) {
  spec.height += 2 * border;
  spec.width += 2 * border;
  for (auto& p : spec.points)
    for (auto& v : p) v += static_cast<float>(border);
  spec.margin += static_cast<double>(2 * border);
  return spec;
}

// Changes when a picture, the detector or the template changes.
std::string digest_of(const People& people, const EmbeddingSpec& spec, const AlignOptions& o) {
  std::string text = o.detector_id + "\n" + std::to_string(o.border) + "\n";
  for (const auto& [key, value] : spec.to_metadata())
    if (key == "mien.input_height" || key == "mien.input_width" || key == "mien.alignment" || key == "mien.points" || key == "mien.margin") text += key + value + "\n";
  for (const auto& p : people.pictures) {
    struct stat info {};
    stat(p.file.c_str(), &info);
    text += p.file + " " + people.names[static_cast<std::size_t>(p.person)] + " " + std::to_string(info.st_size) + " " + std::to_string(info.st_mtime) + "\n";
  }
  return sha256(std::as_bytes(std::span(text)));
}

// What is made anew below replaces a file: it must be a cache, also one that is damaged, and not for instance somebody's weights. A cache's notes come first in it.
void refuse_other_files(const std::string& path) {
  if (path.empty() || !std::filesystem::exists(path)) return;
  const InputFile file(path, std::numeric_limits<std::int64_t>::max());
  std::string head(static_cast<std::size_t>(std::min<std::uint64_t>(file.size(), 4096)), 0);
  file.read(0, std::as_writable_bytes(std::span(head)));
  if (head.find("\"mien.aligned\"") == std::string::npos)
    throw IoError(IoKind::bad_data, "align_people", path, "is no cache of aligned crops and would be overwritten", "Choose another file for the cache, or remove this one.");
}

bool load_cache(const std::string& path, const std::string& digest, AlignedSet& set) {
  if (path.empty() || !std::filesystem::exists(path)) return false;
  try {
    const TensorFile file = load_safetensors(path);
    const auto it = file.metadata.find("mien.aligned");
    const Tensor *crops = file.find("crops"), *person = file.find("person");
    if (it == file.metadata.end() || !crops || !person) return false;
    const auto notes = nlohmann::json::parse(it->second);
    if (notes.at("digest") != digest) return false;
    set.crops = *crops;
    set.person.assign(person->data<std::int64_t>(), person->data<std::int64_t>() + person->numel());
    set.names = notes.at("names").get<std::vector<std::string>>();
    set.files = notes.at("files").get<std::vector<std::string>>();
    set.unreadable = notes.at("unreadable").get<std::vector<std::string>>();
    set.border = notes.at("border");
    set.without_face = notes.at("without_face");
    set.several_faces = notes.at("several_faces");
    return set.crops.rank() == 4 && set.crops.dtype() == DType::u8 && set.crops.size(0) == set.count() && set.files.size() == set.person.size();
  } catch (const std::exception&) {  // damaged: made anew
    return false;
  }
}

void save_cache(const std::string& path, const std::string& digest, const AlignedSet& set) {
  const nlohmann::json notes{{"digest", digest}, {"names", set.names}, {"files", set.files}, {"unreadable", set.unreadable}, {"border", set.border},
                             {"without_face", set.without_face}, {"several_faces", set.several_faces}};
  TensorFile file;
  file.metadata["mien.aligned"] = notes.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  file.tensors = {{"crops", set.crops}, {"person", Tensor::from(set.person, {set.count()})}};
  save_safetensors(path, file);
}

}  // namespace

View AlignedSet::crop(std::int64_t i) const {
  const std::int64_t h = crops.size(1), w = crops.size(2);
  return {crops.data<std::uint8_t>() + i * h * w * 3, DType::u8, {3, h, w}, {1, w * 3, 3}};
}

AlignedSet align_people(const People& people, const Detector& detector, const EmbeddingSpec& spec, const AlignOptions& o) {
  AlignedSet set;
  refuse_other_files(o.cache);
  const std::string digest = digest_of(people, spec, o);
  if (!load_cache(o.cache, digest, set)) set = {};
  set.border = o.border;
  const std::size_t first = set.pictures();  // more than 0 where an earlier call was stopped
  if (first == people.pictures.size()) return set;
  const EmbeddingSpec wide = with_border(spec, o.border);
  const std::size_t bytes = static_cast<std::size_t>(wide.height * wide.width * 3);
  std::vector<std::uint8_t> pixels;
  if (first > 0) pixels.assign(set.crops.data<std::uint8_t>(), set.crops.data<std::uint8_t>() + set.crops.numel());
  for (std::size_t i = first; i < people.pictures.size() && !(o.stop && o.stop()); ++i) {
    if (o.progress) o.progress(i, people.pictures.size());
    const auto& picture = people.pictures[i];
    try {
      const Image image = read_image(picture.file);
      const auto faces = detector.detect(image);
      set.several_faces += faces.size() > 1;
      const Face* face = centre_face(faces, image);
      const Image crop = face ? align_face(image, *face, wide) : Image{};
      if (crop.pixels.size() != bytes) {
        ++set.without_face;
        continue;
      }
      const std::string& name = people.names[static_cast<std::size_t>(picture.person)];
      if (set.names.empty() || set.names.back() != name) set.names.push_back(name);  // pictures come by person
      pixels.insert(pixels.end(), crop.pixels.begin(), crop.pixels.end());
      set.person.push_back(static_cast<std::int64_t>(set.names.size()) - 1);
      set.files.push_back(picture.file);
    } catch (const IoError& e) {
      set.unreadable.push_back(e.what());
    }
  }
  set.crops = Tensor::from(pixels, {set.count(), wide.height, wide.width, 3});
  if (!o.cache.empty() && set.pictures() > first) save_cache(o.cache, digest, set);
  return set;
}

}  // namespace mien
