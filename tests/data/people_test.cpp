#include <fstream>

#include "catch.h"
#include "mien/data/people.h"
#include "mien/tensor/error.h"

namespace mien::test {
namespace {

std::string message(const std::string& path, const PeopleOptions& options = {}) { return message_of<Error>([&] { read_people(path, options); }); }
void touch(const std::filesystem::path& file) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << "x";
}

}  // namespace

TEST_CASE("people from folders", "[people]") {
  const auto dir = temp_dir("people");
  for (const char* f : {"Bob/2.jpg", "Bob/1.png", "Ann Lee/1.jpg", "Cy/notes.txt"}) touch(dir / f);
  const People p = read_people(dir.string());
  CHECK(p.names == std::vector<std::string>{"Ann Lee", "Bob"});  // Cy has no picture
  REQUIRE(p.pictures.size() == 3);
  CHECK(p.pictures[1].file == (dir / "Bob/1.png").string());
  CHECK(p.pictures[1].person == 1);
  CHECK(read_people(dir.string(), {.min_pictures = 2}).names == std::vector<std::string>{"Bob"});
  CHECK(read_people(dir.string(), {.without = {"Bob"}}).names == std::vector<std::string>{"Ann Lee"});
  CHECK(read_people(dir.string(), {.without = {"Bob", "Bop"}}).unknown == std::vector<std::string>{"Bop"});
  CHECK(message(dir.string(), {.only = {"Dee"}}).find("holds nobody called 'Dee'") != std::string::npos);
  CHECK(message(dir.string(), {.min_pictures = 9}).find("holds nobody to train on (2 people before") != std::string::npos);
  touch(dir / "ann_lee/1.jpg");
  CHECK(message(dir.string()).find("'Ann Lee' and 'ann_lee', which look like one person twice. Join the two") != std::string::npos);
  CHECK(message((dir / "none").string()).find("is no folder") != std::string::npos);
  CHECK(message((dir / "Bob").string()).find("holds pictures but no folder of a person") != std::string::npos);
  std::filesystem::remove_all(dir);
}

TEST_CASE("people from a list", "[people]") {
  const auto dir = temp_dir("people-list");
  const std::string list = (dir / "list.txt").string();
  const auto write = [&](const std::string& text) { std::ofstream(list) << text; };
  write("b.jpg\tBob\n/abs/a.jpg\tAnn\r\n\n");
  const People p = read_people("@" + list);
  CHECK(p.names == std::vector<std::string>{"Ann", "Bob"});
  CHECK(p.pictures[0].file == "/abs/a.jpg");
  CHECK(p.pictures[1].file == (dir / "b.jpg").string());
  write("b.jpg\tBob\nb.jpg Bob\n");
  CHECK(message("@" + list).find("line 2: expected a path, a tab and a name, got 'b.jpg Bob'") != std::string::npos);
  write("b.jpg\tBob\nb.jpg\tAnn\n");
  CHECK(message("@" + list).find("b.jpg is listed twice") != std::string::npos);
  CHECK(message("@" + list + "x").find("can't be opened") != std::string::npos);
  write("Ann Lee\t3\t1\n\nAnn Bo \t2\r\nBob\n");
  CHECK(read_names(list) == std::set<std::string>{"Ann Bo", "Ann Lee", "Bob"});
  write(" Ann Lee \t\r\n\r\nBob\r\n");
  CHECK(read_name_lines(list) == std::vector<std::string>{"Ann Lee", "Bob"});
  write(" \r\n");
  CHECK(message_of<IoError>([&] { read_names(list); }).find("list.txt: holds no name") != std::string::npos);
  CHECK(message_of<IoError>([&] { read_names(dir.string()); }).find("is a folder") != std::string::npos);
  CHECK(message_of<IoError>([&] { read_names(list + "x"); }).find("can't be opened") != std::string::npos);
  std::filesystem::remove_all(dir);
}

}  // namespace mien::test
