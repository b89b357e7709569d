#include "mien/data/sampler.h"

#include <map>
#include <numeric>

#include "mien/data/loader.h"

namespace mien {

PkSampler::PkSampler(std::span<const std::int64_t> labels, const PkOptions& options) : options_(options) {
  if (options.people < 1 || options.pictures < 2 || options.batches < 0)
    throw ValueError("PkSampler", "expects people >= 1, pictures >= 2 and batches >= 0, got " + std::to_string(options.people) + ", " + std::to_string(options.pictures) +
                                      " and " + std::to_string(options.batches));
  std::map<std::int64_t, std::vector<std::int64_t>> by_label;
  for (std::size_t i = 0; i < labels.size(); ++i) by_label[labels[i]].push_back(static_cast<std::int64_t>(i));
  std::vector<std::vector<std::int64_t>> rows;
  for (auto& [label, of] : by_label)
    if (of.size() > 1 || options.singles) rows.push_back(std::move(of));
  if (static_cast<std::int64_t>(rows.size()) < options.people)
    throw ValueError("PkSampler", "expects at least " + std::to_string(options.people) + " people with " + (options.singles ? "a picture" : "2 pictures or more") + ", got " +
                                      std::to_string(rows.size()) + " among " + std::to_string(by_label.size()) + " people and " + std::to_string(labels.size()) + " pictures",
                     options.singles ? "Use fewer people a batch." : "Use fewer people a batch, or singles = true to take people with one picture.");
  if (options_.batches == 0) options_.batches = static_cast<std::int64_t>(rows.size()) / options.people;
  rows_ = std::make_shared<const std::vector<std::vector<std::int64_t>>>(std::move(rows));
}

std::vector<std::int64_t> PkSampler::operator()(std::uint64_t seed, std::uint64_t epoch) const {
  // 2^32 streams an epoch, apart from those of random ops and of permutation(): one for each shuffle.
  std::uint64_t stream = (std::uint64_t{1} << 50) + (epoch << 32);
  std::vector<std::int64_t> order, people(rows_->size()), pictures;
  order.reserve(static_cast<std::size_t>(size()));
  std::iota(people.begin(), people.end(), std::int64_t{0});
  const auto p = static_cast<std::size_t>(options_.people), k = static_cast<std::size_t>(options_.pictures);
  std::size_t next = people.size();
  for (std::int64_t b = 0; b < options_.batches; ++b) {
    if (people.size() - next < p) {
      shuffle(people, seed, stream++);
      next = 0;
    }
    for (std::size_t i = 0; i < p; ++i) {
      pictures = (*rows_)[static_cast<std::size_t>(people[next++])];
      shuffle(pictures, seed, stream++);
      for (std::size_t j = 0; j < k; ++j) order.push_back(pictures[j % pictures.size()]);
    }
  }
  return order;
}

}  // namespace mien
