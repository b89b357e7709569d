// What a Plan is inside. Private to infer/.
#pragma once

#include "mien/infer/infer.h"
#include "mien/infer/program_impl.h"

namespace mien::infer {

struct Plan::Impl {
  Graph graph;
  Options options;
  bool by_image = false;  // every image is computed by itself: batches may be cut
  int cut = 0;            // nodes before it run image by image, those from it on for a group of images (see schedule.cpp)

  std::vector<Shape> shapes() const;                                       // of the example
  void check_shapes(std::span<const Shape> inputs) const;                  // ShapeError names both
  std::shared_ptr<const Sizes> size(std::span<const Shape> inputs) const;  // ShapeErrors tell what the plan was compiled for
};

// Whether every call computes each image (dimension 0) from the same image of its inputs.
bool by_image(const Graph& g);
// Where to cut, by bytes. `image` are the sizes for a batch of one.
int choose_cut(const Graph& g, const Sizes& image);
// Images a group for a batch of n on this many threads.
std::int64_t group_size(std::int64_t n, int threads);

// The shapes with another batch.
std::vector<Shape> with_batch(std::span<const Shape> shapes, std::int64_t n);
std::string svg(const Graph& g, const Program& program);

}  // namespace mien::infer
