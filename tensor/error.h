// Errors of the whole library. Every error that a caller can cause is a mien::Error; InternalError means a bug in mien.
//
// Grammar of a message: `op: what was expected, what came (all shapes and dtypes). hint`.
// Thread safety: exceptions are values, nothing shared.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace mien {

// Where in a source file something happened. std::source_location in small: clang 14 with libstdc++ 12 has none.
class SourceLocation {
 public:
  static constexpr SourceLocation current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) noexcept { return {file, line}; }
  constexpr const char* file_name() const noexcept { return file_; }
  constexpr int line() const noexcept { return line_; }

 private:
  constexpr SourceLocation(const char* file, int line) noexcept : file_(file), line_(line) {}
  const char* file_;
  int line_;
};

class Error : public std::runtime_error {
 public:
  // `op` is the public function that refused; `message` says what was expected and what came; `hint` what to do (may be empty).
  Error(std::string op, const std::string& message, std::string hint = {},
        SourceLocation where = SourceLocation::current());
  const std::string& op() const noexcept { return op_; }
  const std::string& hint() const noexcept { return hint_; }
  const SourceLocation& where() const noexcept { return where_; }

 private:
  std::string op_, hint_;
  SourceLocation where_;
};

// (A constructor of its own: nvcc 13.0 stumbles over inherited default arguments that ask for the place.)
#define MIEN_DEFINE_ERROR(Name)                                                                                                              \
  class Name : public Error {                                                                                                                \
   public:                                                                                                                                   \
    Name(std::string op, const std::string& message, std::string hint = {}, SourceLocation where = SourceLocation::current())                \
        : Error(std::move(op), message, std::move(hint), where) {}                                                                           \
  }
MIEN_DEFINE_ERROR(ShapeError);         // shapes that do not fit together, sizes that overflow
MIEN_DEFINE_ERROR(DTypeError);         // a dtype the op does not take; the message names the cast
MIEN_DEFINE_ERROR(DeviceError);        // device absent, operands on different devices
MIEN_DEFINE_ERROR(OutOfMemory);        // wanted, in use and limit are in the message
MIEN_DEFINE_ERROR(NotDifferentiable);  // a derivative was asked for that does not exist
MIEN_DEFINE_ERROR(NotImplemented);
MIEN_DEFINE_ERROR(ValueError);         // an argument outside its range
MIEN_DEFINE_ERROR(Diverged);           // training that no longer makes sense: NaN or infinite losses
MIEN_DEFINE_ERROR(InternalError);      // a bug in mien: please report it
#undef MIEN_DEFINE_ERROR

// What a failed file operation was about: the command-line programs turn it into their exit code.
enum class IoKind { bad_data, missing, cannot_create, write_failed, locked };

// Files: unreadable, truncated, hostile, or not writable. The message begins with the file's name.
class IoError : public Error {
 public:
  IoError(IoKind kind, std::string op, const std::string& file, const std::string& message, std::string hint = {},
          SourceLocation where = SourceLocation::current());
  IoKind kind() const noexcept { return kind_; }
  const std::string& file() const noexcept { return file_; }

 private:
  IoKind kind_;
  std::string file_;
};

// Throws InternalError when an invariant of mien itself does not hold.
void internal_check(bool holds, const char* what, SourceLocation where = SourceLocation::current());

}  // namespace mien
