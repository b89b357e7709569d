// Pictures of known people: what face-embedding nets are trained on.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace mien {

struct PersonPicture {
  std::string file;
  std::int64_t person;  // index into People::names
};
struct People {
  std::vector<std::string> names;       // sorted
  std::vector<PersonPicture> pictures;  // by person, then by file
  std::vector<std::string> unknown;     // names of PeopleOptions::without that nobody has
};

struct PeopleOptions {
  std::set<std::string> only = {};     // empty: everybody
  std::set<std::string> without = {};
  std::int64_t min_pictures = 1;  // people with fewer are left out
};
// FOLDER/NAME/*.jpg, one folder a person, or "@LIST" with one "path<TAB>name" a line (a relative path starts at the list's folder).
// IoError names the file and line: nothing there, pictures beside the folders of people, a malformed line, a name of `only` that does not exist, one picture
// listed twice. ValueError: two names that differ in case, spaces and punctuation alone are one person twice; the message says both.
People read_people(const std::string& path, const PeopleOptions& options = {});

// The lines of a text file without blanks and CR at their ends, without empty ones. IoError: missing, a folder, not readable, no line at all.
std::vector<std::string> read_name_lines(const std::string& file);
// Of each line what stands before a tab (LFW's people.txt goes on behind it); a name may have blanks in it.
std::set<std::string> read_names(const std::string& file);

}  // namespace mien
