// Exit codes of every program here: one table for the code and for `mien help exit-codes`.
#pragma once

#include <exception>
#include <string>

namespace mien {

enum class Exit : int {
  ok = 0, no = 1, usage = 2, no_face = 3, bad_data = 65, missing = 66, no_device = 69, internal = 70, out_of_memory = 71, cannot_create = 73, io = 74, locked = 75,
  diverged = 76,
};
struct ExitText {
  Exit code;
  const char* meaning;
};
inline constexpr ExitText exit_texts[] = {
    {Exit::ok, "success, or the answer is yes"}, {Exit::no, "the answer is no (another person, below the bar)"}, {Exit::usage, "a mistake on the command line"},
    {Exit::no_face, "no face in a picture that needs one"}, {Exit::bad_data, "a file holds bad data"}, {Exit::missing, "a file or folder is missing"},
    {Exit::no_device, "the device asked for is absent, or was lost on the way"}, {Exit::internal, "a bug in mien"}, {Exit::out_of_memory, "out of memory"},
    {Exit::cannot_create, "a file can't be created"}, {Exit::io, "writing failed, for instance the disk is full"}, {Exit::locked, "another process holds the folder"},
    {Exit::diverged, "the training diverged"},
};
inline int code(Exit e) { return static_cast<int>(e); }

// Which code an exception ends the program with.
Exit exit_code(const std::exception& e) noexcept;

}  // namespace mien
