// The pieces of work that are measured: a net forward, a training step, an optimizer's step, a detection.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mien/face/detector.h"
#include "mien/layers/module.h"

namespace mien::bench {

enum class Mode : std::uint8_t { inference, train, update };  // update: the optimizer's step alone
const char* name(Mode mode) noexcept;

struct ModelOptions {
  std::string model;             // one of model_names(), or a model file
  std::int64_t batch = 1;
  Mode mode = Mode::inference;
  DType dtype = DType::f32;      // of the arithmetic
  Device device = {};            // a run ends when the device is done
  std::int64_t pyramid_width = 0, pyramid_height = 0;  // P-Net only: one run is every scale of a picture of this size; in f32 from its pixels to candidates
  double min_face = 20;          // of the pyramid
  std::string dump;              // folder to write weights, inputs and outputs to, so that another program can do the same work; "" for none
};

struct Work {
  std::string net;                  // what the file or the name stands for
  std::vector<Shape> inputs;        // of a run
  std::int64_t items = 1;           // pictures (crops) a run
  std::int64_t parameters = 0;
  DType dtype = DType::f32;         // computed in: bf16 only where it was asked for and the CPU has tiles (or a GPU trains)
  Device device = {};
  std::function<void()> run;
  std::function<void()> eager;      // the same arithmetic op by op: what is counted
  std::function<double()> loss;     // of the first step that ran; train only
};

std::vector<std::string> model_names();
// Random weights from a fixed seed: the same in every process. Inputs channels_last. ValueError, IoError.
Work model_work(const ModelOptions& options);
// The detector must outlive the work.
Work detect_work(const Detector& detector, const Image& image);

}  // namespace mien::bench
