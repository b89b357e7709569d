// The folds of LFW that a command line asks for.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "mien/data/lfw.h"
#include "mien/metrics/verification.h"
#include "mien/tensor/error.h"

namespace mien::cli {

// `asked` counts from 1; empty: all. `folds_option` and `inner_option` are the names for messages, `file` is the pairs file. ValueError.
inline FoldOptions chosen_folds(const std::vector<int>& asked, int inner, const LfwPairs& pairs, const std::string& file, const char* folds_option, const char* inner_option) {
  FoldOptions options{{}, inner};
  for (const int f : asked) {
    if (f < 1 || f > pairs.folds) throw ValueError(folds_option, file + " has the folds 1.." + std::to_string(pairs.folds) + ", got " + std::to_string(f));
    if (std::count(asked.begin(), asked.end(), f) > 1) throw ValueError(folds_option, "names fold " + std::to_string(f) + " twice");
    options.folds.push_back(f - 1);
  }
  if (pairs.folds == 1 && inner == 0)
    throw ValueError(inner_option, file + " has one fold, which leaves none to choose the threshold on", std::string("Give ") + inner_option + " 10.");
  if (inner > 0) {
    std::set<std::size_t> parts;  // pairs are dealt in turn
    for (std::size_t i = 0; i < pairs.fold.size(); ++i)
      if (options.folds.empty() || std::count(options.folds.begin(), options.folds.end(), pairs.fold[i]) > 0) parts.insert(i % static_cast<std::size_t>(inner));
    if (parts.size() < static_cast<std::size_t>(inner))
      throw ValueError(inner_option, "the judged pairs of " + file + " fill only " + std::to_string(parts.size()) + " of " + std::to_string(inner) + " parts", "Give fewer, such as 10.");
  }
  return options;
}

}  // namespace mien::cli
