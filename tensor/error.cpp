#include "mien/tensor/error.h"

namespace mien {
namespace {
std::string compose(const std::string& op, const std::string& message, const std::string& hint) {
  std::string text = op.empty() ? message : op + ": " + message;
  if (!hint.empty()) text += (text.empty() || text.back() == '.' ? " " : ". ") + hint;
  return text;
}
}  // namespace

Error::Error(std::string op, const std::string& message, std::string hint, SourceLocation where)
    : std::runtime_error(compose(op, message, hint)), op_(std::move(op)), hint_(std::move(hint)), where_(where) {}

IoError::IoError(IoKind kind, std::string op, const std::string& file, const std::string& message, std::string hint,
                 SourceLocation where)
    : Error(std::move(op), file + ": " + message, std::move(hint), where), kind_(kind), file_(file) {}

void internal_check(bool holds, const char* what, SourceLocation where) {
  if (!holds) throw InternalError("mien", std::string("internal invariant broken: ") + what, "Please report it.", where);
}

}  // namespace mien
