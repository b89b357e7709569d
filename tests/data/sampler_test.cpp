#include "mien/data/sampler.h"

#include <algorithm>
#include <map>
#include <set>

#include "mien/data/loader.h"
#include "ops/values.h"

namespace mien::test {
namespace {

using Rows = std::vector<std::int64_t>;

// 20 people: person p has p % 7 pictures, and those of one person do not lie side by side.
Rows some_labels() {
  Rows labels;
  for (std::int64_t round = 0; round < 7; ++round)
    for (std::int64_t p = 0; p < 20; ++p)
      if (round < p % 7) labels.push_back(100 - p);
  return labels;
}

void check_order(const PkSampler& sampler, const Rows& labels, std::size_t people, std::size_t pictures, bool singles) {
  for (const std::uint64_t epoch : {0, 1, 5}) {
    const Rows order = sampler(3, epoch);
    REQUIRE(order.size() == static_cast<std::size_t>(sampler.size()));
    CHECK(order == sampler(3, epoch));
    CHECK(order != sampler(4, epoch));
    CHECK(order != sampler(3, epoch + 1));
    for (std::size_t b = 0; b < order.size(); b += people * pictures) {
      std::set<std::int64_t> seen;
      for (std::size_t i = 0; i < people; ++i) {
        const auto* first = &order[b + i * pictures];
        const std::int64_t who = labels[static_cast<std::size_t>(first[0])];
        CHECK(seen.insert(who).second);  // nobody twice
        const auto has = static_cast<std::size_t>(std::count(labels.begin(), labels.end(), who));
        CHECK((has > 1 || singles));
        for (std::size_t k = 0; k < pictures; ++k) CHECK(labels[static_cast<std::size_t>(first[k])] == who);
        CHECK(std::set<std::int64_t>(first, first + pictures).size() == std::min(has, pictures));  // all different, or all there are
        for (std::size_t k = has; k < pictures; ++k) CHECK(first[k] == first[k - has]);
      }
    }
  }
}

}  // namespace

TEST_CASE("batches of P people with K pictures", "[sampler]") {
  const Rows labels = some_labels();
  const PkSampler sampler(labels, {.people = 4, .pictures = 3});
  CHECK(sampler.people() == 14);  // 3 have none, 3 have one
  CHECK(sampler.batch() == 12);
  CHECK(sampler.batches() == 3);
  check_order(sampler, labels, 4, 3, false);
  const PkSampler with_singles(labels, {.people = 5, .pictures = 4, .batches = 11, .singles = true});
  CHECK(with_singles.people() == 17);
  CHECK(with_singles.size() == 11 * 20);
  check_order(with_singles, labels, 5, 4, true);
  const PkSampler everybody(labels, {.people = 14, .pictures = 2, .batches = 3});
  check_order(everybody, labels, 14, 2, false);
}

TEST_CASE("in one epoch nobody comes twice before all have come, and over epochs all pictures do", "[sampler]") {
  const Rows labels = some_labels();
  const PkSampler sampler(labels, {.people = 7, .pictures = 2});
  std::set<std::int64_t> people, pictures;
  for (const auto r : sampler(1, 0)) people.insert(labels[static_cast<std::size_t>(r)]);
  CHECK(people.size() == 14);
  for (std::uint64_t epoch = 0; epoch < 60; ++epoch)
    for (const auto r : sampler(1, epoch)) pictures.insert(r);
  CHECK(pictures.size() == labels.size() - 3);  // all but those of people with one
}

TEST_CASE("the sampler says who is missing", "[sampler][error]") {
  const Rows labels{1, 1, 2, 3, 3, 4};
  CHECK(message_of<ValueError>([&] { PkSampler(labels, {.people = 3, .pictures = 2}); }) ==
        "PkSampler: expects at least 3 people with 2 pictures or more, got 2 among 4 people and 6 pictures. Use fewer people a batch, or singles = true to take people with one picture.");
  CHECK(message_of<ValueError>([&] { PkSampler(labels, {.people = 5, .pictures = 2, .singles = true}); }) ==
        "PkSampler: expects at least 5 people with a picture, got 4 among 4 people and 6 pictures. Use fewer people a batch.");
  CHECK(message_of<ValueError>([&] { PkSampler(labels, {.people = 2, .pictures = 1}); }) ==
        "PkSampler: expects people >= 1, pictures >= 2 and batches >= 0, got 2, 1 and 0");
}

TEST_CASE("a loader takes its order from a sampler, for any number of workers, and resumes in the middle", "[sampler][loader]") {
  const Rows labels = some_labels();
  const PkSampler sampler(labels, {.people = 4, .pictures = 3, .batches = 6});
  const auto run = [&](int workers, std::uint64_t epoch, std::int64_t first) {
    Loader loader({.size = sampler.size(), .batch = sampler.batch(), .seed = 9, .workers = workers, .sampler = sampler}, [](std::span<const std::int64_t> rows, std::uint64_t) {
      return Batch{Tensor::from(rows, {static_cast<std::int64_t>(rows.size())})};
    });
    CHECK(loader.batches() == 6);
    Rows all;
    loader.start(epoch, first);
    while (auto b = loader.next()) {
      const auto v = (*b)[0].span<std::int64_t>();
      all.insert(all.end(), v.begin(), v.end());
    }
    return all;
  };
  for (const int workers : {0, 1, 3}) {
    const Rows order = sampler(9, 2), rest(order.begin() + 4 * 12, order.end());
    CHECK(run(workers, 2, 0) == order);
    CHECK(run(workers, 2, 4) == rest);
  }
  Loader wrong({.size = 5, .batch = 1, .sampler = [](std::uint64_t, std::uint64_t) { return Rows{1, 2}; }}, [](auto, auto) { return Batch{}; });
  CHECK(message_of<ValueError>([&] { wrong.start(7); }) == "loader: expects 5 rows of the sampler, got 2 for epoch 7. Set size to the number of rows the sampler gives.");
  CHECK(!wrong.next());
}

}  // namespace mien::test
