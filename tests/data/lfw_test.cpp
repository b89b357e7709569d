// Pair lists of LFW: what is read and what is refused.
#include <fstream>

#include "catch.h"
#include "mien/data/lfw.h"
#include "mien/tensor/error.h"

namespace fs = std::filesystem;

namespace mien::test {
namespace {

struct Folder {
  fs::path path = temp_dir("lfw");
  ~Folder() { fs::remove_all(path); }
  std::string write(const std::string& text) const {
    std::ofstream(path / "pairs.txt") << text;
    return (path / "pairs.txt").string();
  }
  // The message without the folder's name.
  std::string refusal(const std::string& text, IoKind kind = IoKind::bad_data) const {
    const std::string file = write(text);
    try {
      read_lfw_pairs(file);
    } catch (const IoError& e) {
      CHECK(e.kind() == kind);
      const std::string what = e.what();
      const auto at = what.find(file);
      CHECK(at != std::string::npos);
      return what.substr(0, at) + "F" + what.substr(at + file.size());
    }
    return "";
  }
};

}  // namespace

TEST_CASE("LFW pairs: two folds") {
  const Folder f;
  const LfwPairs p = read_lfw_pairs(f.write("2\t1\nAnn\t1\t12\nAnn\t1\tBo_Li\t3\n\nCy 1 2\r\nCy 2 Ann 10000\n"));
  CHECK(p.folds == 2);
  CHECK(p.per_kind == 1);
  CHECK(p.pictures == std::vector<std::string>{"Ann/Ann_0001.jpg", "Ann/Ann_0012.jpg", "Ann/Ann_10000.jpg", "Bo_Li/Bo_Li_0003.jpg", "Cy/Cy_0001.jpg", "Cy/Cy_0002.jpg"});
  CHECK(p.same == std::vector<char>{1, 0, 1, 0});
  CHECK(p.fold == std::vector<int>{0, 0, 1, 1});
  CHECK(p.pairs == std::vector<std::array<std::int64_t, 2>>{{0, 1}, {0, 3}, {4, 5}, {5, 2}});
}

TEST_CASE("LFW pairs: one count in the header is one fold") {
  const Folder f;
  const LfwPairs p = read_lfw_pairs(f.write("2\nA 1 2\nA 1 3\nA 1 B 1\nA 2 B 2\n"));
  CHECK(p.folds == 1);
  CHECK(p.per_kind == 2);
  CHECK(p.fold == std::vector<int>{0, 0, 0, 0});
}

TEST_CASE("LFW pairs: refusals name the line") {
  const Folder f;
  const std::string hint = ". Expected the pairs.txt format of LFW.";
  CHECK(f.refusal("") == "read_lfw_pairs: F: is empty" + hint);
  CHECK(f.refusal("ten 300\n") == "read_lfw_pairs: F: line 1: expected a header of two counts (folds and pairs of each kind) or one" + hint);
  CHECK(f.refusal("1 1 1\n") == "read_lfw_pairs: F: line 1: expected a header of two counts (folds and pairs of each kind) or one" + hint);
  CHECK(f.refusal("0 1\n") == "read_lfw_pairs: F: line 1: expected a header of two counts (folds and pairs of each kind) or one" + hint);
  CHECK(f.refusal("2 1\nA 1 2\nA 1 B 1\nA 1 2\n") == "read_lfw_pairs: F: its header promises 4 pairs (2 x 2 x 1), it holds 3");
  CHECK(f.refusal("1 1\n\nA 1 2\nA 1 B\n") == "read_lfw_pairs: F: line 4: expected the number of a picture, got 'B'" + hint);
  CHECK(f.refusal("1 1\nA 1 2\nA 1\n") == "read_lfw_pairs: F: line 3: expected 3 fields (one person) or 4 (two people), got 2" + hint);
  CHECK(f.refusal("1 1\nA 1 two\nA 1 B 1\n") == "read_lfw_pairs: F: line 2: expected the number of a picture, got 'two'" + hint);
  CHECK(f.refusal("1 1\nA 1 -2\nA 1 B 1\n") == "read_lfw_pairs: F: line 2: expected the number of a picture, got '-2'" + hint);
  CHECK(f.refusal("1 1\nA 1 2\n../A 1 B 1\n") == "read_lfw_pairs: F: line 3: '../A' is no name of a person" + hint);
  CHECK(f.refusal("1 1\nA 1 2\nA 1 3\n") == "read_lfw_pairs: F: line 3: fold 1 ends here with 2 pairs of one person, expected 1" + hint);
  CHECK_THROWS_AS(read_lfw_pairs((f.path / "absent.txt").string()), IoError);
}

TEST_CASE("LFW pictures that are missing are counted and the first ones named") {
  const Folder f;
  const LfwPairs p = read_lfw_pairs(f.write("1 2\nA 1 2\nB 1 2\nA 1 B 1\nA 3 B 2\n"));
  fs::create_directories(f.path / "A");
  std::ofstream(f.path / "A/A_0001.jpg") << "x";
  const std::string folder = f.path.string();
  const auto message = [&](const std::string& where) -> std::string {
    try {
      check_lfw_pictures(p, where);
    } catch (const IoError& e) {
      CHECK(e.kind() == IoKind::missing);
      return e.what();
    }
    return "";
  };
  CHECK(message(folder) == "lfw: " + folder + ": lacks 4 of the 5 pictures of the pairs: A/A_0002.jpg, A/A_0003.jpg, B/B_0001.jpg and more. Expected a folder with Name/Name_0001.jpg in it.");
  CHECK(message(folder + "/none").starts_with("lfw: " + folder + "/none: is no folder"));
  for (const char* leaf : {"A/A_0002.jpg", "A/A_0003.jpg", "B/B_0001.jpg", "B/B_0002.jpg"}) {
    fs::create_directories((f.path / leaf).parent_path());
    std::ofstream(f.path / leaf) << "x";
  }
  CHECK(message(folder).empty());
}

TEST_CASE("LFW pairs: the published list of folds 1-5") {
  MIEN_REQUIRE_DATA(folder, "lfw-deepfunneled-folds1-5");
  const LfwPairs p = read_lfw_pairs(folder + "/pairs_folds1-5.txt");
  CHECK(p.folds == 5);
  CHECK(p.pairs.size() == 3000);
  check_lfw_pictures(p, folder);
}

}  // namespace mien::test
