// A sheet of pairs of pictures side by side, for looking at what a recogniser got wrong.
#pragma once

#include <string>
#include <vector>

#include "mien/data/image.h"

namespace mien {

struct SheetPair {
  Image left, right;                  // any size; each is fitted into a square. An empty one gives an empty square.
  std::string left_name, right_name;  // below the pictures; what is too long loses its middle
  std::string text;                   // below both: the distance, say
};
// One column of the sheet: a heading and its pairs from top to bottom.
struct SheetColumn {
  std::string title;
  std::vector<SheetPair> pairs;
};

// `side`: of a picture's square, in pixels (ValueError below 32). Text as in draw.h. Columns without pairs say "none".
Image contact_sheet(const std::string& title, const std::vector<SheetColumn>& columns, std::int64_t side = 128);

}  // namespace mien
