// mien convert: .pt (zip and legacy), numeric .npy, .npz and .safetensors to mien's own file.
#include <cstdio>
#include <filesystem>
#include <memory>

#include "commands.h"
#include "mien/io/torch_file.h"
#include "mien/models/facenet/convert.h"
#include "mien/models/mtcnn/mtcnn.h"
#include "mien/tensor/error.h"

namespace mien::cli {
namespace {

struct Settings {
  std::vector<std::string> inputs;
  std::string model, out;
};

int convert(const Settings& s) {
  std::vector<TensorFile> parts;
  std::string names;
  TensorFile singles;  // .npy files hold one tensor each and belong together
  for (const auto& path : s.inputs) {
    TensorFile file = load_tensors(path);
    names += (names.empty() ? "" : " + ") + path;
    if (std::filesystem::path(path).extension() == ".npy") singles.tensors.insert(singles.tensors.end(), file.tensors.begin(), file.tensors.end());
    else parts.push_back(std::move(file));
  }
  if (!singles.tensors.empty()) parts.push_back(std::move(singles));
  if (s.model != "mtcnn" && parts.size() != 1) throw ValueError("convert", "expected one file for --model " + s.model + ", got " + std::to_string(s.inputs.size()));
  const TensorFile result = s.model == "mtcnn" ? convert_mtcnn(parts, names) : convert_inception_resnet_v1(parts[0], names);
  save_safetensors(s.out, result);
  std::int64_t values = 0;
  for (const auto& [name, t] : result.tensors) values += t.numel();
  std::printf("%s: %zu tensors, %ld values\n", s.out.c_str(), result.tensors.size(), static_cast<long>(values));
  return 0;
}

}  // namespace

Run add_convert(CLI::App& app) {
  auto s = std::make_shared<Settings>();
  app.add_option("IN", s->inputs, "Weights: .pt, .npy, .npz or .safetensors; several files are joined")->required();
  app.add_option("--model", s->model, "What the weights are for")->required()->check(CLI::IsMember({"mtcnn", "facenet", "inception-resnet-v1"}));
  app.add_option("--out", s->out, "The .safetensors file to write")->required();
  return [s] { return convert(*s); };
}

}  // namespace mien::cli
