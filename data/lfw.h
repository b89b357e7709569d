// Labeled Faces in the Wild: the pair lists of http://vis-www.cs.umass.edu/lfw and where its pictures lie.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace mien {

struct LfwPairs {
  std::vector<std::string> pictures;                  // the distinct ones, sorted, relative to the folder: Name/Name_0001.jpg
  std::vector<std::array<std::int64_t, 2>> pairs;     // indices into pictures
  std::vector<char> same;                             // of each pair: 1 = one person
  std::vector<int> fold;                              // of each pair, from 0
  int folds = 0;
  std::int64_t per_kind = 0;                          // pairs of each kind in a fold
};

// A header "F<tab>N" (or "N" alone: one fold, as in pairsDevTrain.txt), then F times N pairs "name i j" of one person and N pairs "name i other j".
// Fields lie between tabs or blanks; empty lines don't count. IoError names the file, and the line where one is malformed or a count is wrong.
LfwPairs read_lfw_pairs(const std::string& path);

// IoError (missing) with the count and the first few pictures that are not in `folder`.
void check_lfw_pictures(const LfwPairs& pairs, const std::string& folder);

}  // namespace mien
