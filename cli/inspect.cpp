// mien inspect: tensors, parameters, multiplications, digest and metadata of a weights file.
#include <cstdio>
#include <memory>

#include "commands.h"
#include "mien/io/crc32c.h"
#include "mien/io/file.h"
#include "mien/io/torch_file.h"

namespace mien::cli {
namespace {

// Multiplications of one window of each net of MTCNN (12x12, 24x24, 48x48): output pixels times weights of each layer.
struct Macs {
  const char* tensor;
  std::int64_t pixels;
};
constexpr Macs mtcnn_macs[] = {{"pnet.conv1", 100}, {"pnet.conv2", 9}, {"pnet.conv3", 1}, {"pnet.conv4_1", 1}, {"pnet.conv4_2", 1}, {"rnet.conv1", 484}, {"rnet.conv2", 81},
                               {"rnet.conv3", 9}, {"rnet.dense4", 1}, {"rnet.dense5_1", 1}, {"rnet.dense5_2", 1}, {"onet.conv1", 2116}, {"onet.conv2", 441}, {"onet.conv3", 64},
                               {"onet.conv4", 9}, {"onet.dense5", 1}, {"onet.dense6_1", 1}, {"onet.dense6_2", 1}, {"onet.dense6_3", 1}};

int inspect(const std::string& path) {
  const TensorFile file = load_tensors(path);
  std::int64_t values = 0;  // running statistics of batch norm are no parameters
  for (const auto& [name, t] : file.tensors) {
    std::printf("%-24s %s\n", name.c_str(), describe(t).c_str());
    if (name.find(".running_") == std::string::npos) values += t.numel();
  }
  std::printf("tensors: %zu\nparameters: %ld\n", file.tensors.size(), static_cast<long>(values));
  const auto architecture = file.metadata.find("mien.architecture");
  if (architecture != file.metadata.end() && architecture->second == "mtcnn")
    for (const char* net : {"pnet", "rnet", "onet"}) {
      std::int64_t macs = 0, parameters = 0;
      for (const auto& m : mtcnn_macs)
        if (const Tensor* w = std::string(m.tensor).rfind(net, 0) == 0 ? file.find(std::string(m.tensor) + ".weight") : nullptr) macs += w->numel() * m.pixels;
      for (const auto& [name, t] : file.tensors)
        if (name.rfind(net, 0) == 0) parameters += t.numel();
      std::printf("%s: %ld parameters, %ld MACs a window\n", net, static_cast<long>(parameters), static_cast<long>(macs));
    }
  std::printf("sha256: %s\n", sha256(read_file(path)).c_str());
  for (const auto& [key, value] : file.metadata)
    if (key.find("crc32c") == std::string::npos) std::printf("%s: %s\n", key.c_str(), value.c_str());
  return 0;
}

}  // namespace

Run add_inspect(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  app.add_option("FILE", *path, "A weights file: .safetensors, .pt, .npy or .npz")->required();
  return [path] { return inspect(*path); };
}

}  // namespace mien::cli
