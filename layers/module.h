// Module: plain members plus one `visit`. Parameters, state dict, mode and printing all follow from it.
//
//   struct Net : Module {
//     Conv2d conv{{.in = 3, .out = 10, .kernel = {3, 3}}};
//     PReLU act{10};
//     Tensor forward(const Tensor& x) const { return act(conv(x)); }
//     void visit(Visitor& v) override { v("conv", conv); v("act", act); }
//   };
//
// Non-copyable; copy weights with load_state_dict(other.state_dict()). Thread safety: forward of a const module in eval mode may run in many
// threads at once.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "mien/tensor/tensor.h"

namespace mien {

class Module;

enum class Slot : std::uint8_t { parameter, buffer };  // a buffer is saved but not trained (running statistics)

class Visitor {
 public:
  virtual ~Visitor() = default;
  void operator()(const std::string& name, Module& child);
  void operator()(const std::string& name, Tensor& value, Slot slot = Slot::parameter);

 protected:
  virtual void on_tensor(const std::string& path, Tensor& value, Slot slot) = 0;
  virtual void on_module(const std::string& path, Module& module);

 private:
  friend class Module;
  std::string prefix_;
};

struct NamedTensor {
  std::string name;
  Tensor value;
};

// What a strict load found wrong, one line each.
struct LoadReport {
  std::vector<std::string> missing, unexpected, misshaped;
  bool ok() const { return missing.empty() && unexpected.empty() && misshaped.empty(); }
  std::string message() const;
};

class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual void visit(Visitor& v) = 0;
  // One line for summaries: "Conv2d(3 -> 10, 3x3)". Containers may leave it empty.
  virtual std::string label() const { return {}; }

  std::vector<NamedTensor> parameters();  // handles: changing them changes the module
  std::vector<NamedTensor> state_dict();  // parameters and buffers, in visiting order
  std::int64_t parameter_count();
  // Copies values by name (dtype may differ: it is cast). Strict: ValueError with the whole report unless everything fits; then nothing was changed.
  void load_state_dict(const std::vector<NamedTensor>& state);
  // The same without copies: the tensors themselves become the module's where their dtype, device and layout are its own, so nobody else may use them. Before an
  // optimizer is told of the parameters.
  void adopt_state_dict(const std::vector<NamedTensor>& state);
  LoadReport check_state_dict(const std::vector<NamedTensor>& state);
  void train(bool on = true);  // dropout, batch norm
  void eval() { train(false); }
  bool training() const noexcept { return training_; }
  void require_grad(bool on = true);
  void zero_grad();
  void to(DType dtype);    // every floating parameter and buffer
  void to(Device device);  // every parameter and buffer. Before an optimizer is made: it keeps handles to the tensors of that moment.
  // A table: path, label, shapes, number of values.
  std::string summary();

 private:
  bool training_ = true;
  friend struct SetTraining;
};

}  // namespace mien
