// What a detection looks like: a box, five points and the score, sized with the picture.
#pragma once

#include <vector>

#include "mien/face/detector.h"

namespace mien {

void draw_faces(Image& image, const std::vector<Face>& faces);
// The part of the picture inside the box (cut at the picture's edges); empty when nothing is left.
Image crop_face(const Image& image, const Face& face);

}  // namespace mien
