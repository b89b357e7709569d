#include "mien/models/lenet/lenet.h"

#include "mien/ops/pool.h"
#include "mien/ops/unary.h"
#include "mien/ops/view.h"

namespace mien {

LeNet::LeNet()
    : conv1({.in = 1, .out = 6, .kernel = {5, 5}, .padding = {2, 2, 2, 2}}), conv2({.in = 6, .out = 16, .kernel = {5, 5}}), fc1({.in = 400, .out = 120}),
      fc2({.in = 120, .out = 84}), fc3({.in = 84, .out = 10}) {}

Tensor LeNet::forward(const Tensor& x) const {
  const PoolParams halve{.kernel = {2, 2}, .stride = {2, 2}};
  Tensor h = avg_pool2d(sigmoid(conv1(x)), halve);
  h = avg_pool2d(sigmoid(conv2(h)), halve);
  h = sigmoid(fc1(flatten(h, 1)));
  return fc3(sigmoid(fc2(h)));
}

void LeNet::visit(Visitor& v) {
  v("conv1", conv1);
  v("conv2", conv2);
  v("fc1", fc1);
  v("fc2", fc2);
  v("fc3", fc3);
}

}  // namespace mien
