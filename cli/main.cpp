// The `mien` program. Results go to stdout, everything else to stderr.
#include <csignal>
#include <cstdio>
#include <map>
#include <sstream>

#include "commands.h"
#include "exit_codes.h"

using namespace mien;

namespace {

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* o : app.get_options())
    for (const auto& l : o->get_lnames()) names.push_back("--" + l);
  return names;
}

// "eval lfw"
std::string full_name(const CLI::App& command) {
  const CLI::App* above = command.get_parent();
  return (above && above->get_parent() ? full_name(*above) + " " : "") + command.get_name();
}

// A mistake on the command line: what it was and, for a misspelt word, the nearest one that exists.
int usage_error(const CLI::App& app, const CLI::App* command, const CLI::ParseError& e, int argc, char** argv) {
  std::string text = e.what(), hint;
  std::vector<std::string> known;
  const auto inner = command ? command->get_subcommands([](const CLI::App*) { return true; }) : std::vector<const CLI::App*>();
  if (!inner.empty() && argc > 2 && argv[2][0] != '-') {
    for (const CLI::App* c : inner) known.push_back(c->get_name());
    text = "unknown " + command->get_name() + " command " + argv[2];
    hint = cli::nearest(argv[2], known);
  } else if (command) {
    known = option_names(*command);
    for (int i = 2; i < argc; ++i) {
      const std::string word = std::string(argv[i]).substr(0, std::string(argv[i]).find('='));
      if (word.rfind("--", 0) == 0 && std::find(known.begin(), known.end(), word) == known.end()) {
        text = "unknown option " + word;
        hint = cli::nearest(word, known);
        break;
      }
    }
  } else if (argc > 1) {
    const std::string word = argv[1];
    known = option_names(app);
    for (const CLI::App* c : app.get_subcommands({})) known.push_back(c->get_name());
    if (std::find(known.begin(), known.end(), word) == known.end()) {
      text = (word[0] == '-' ? "unknown option " : "unknown command ") + word;
      hint = cli::nearest(word, known);
    }
  }
  std::fprintf(stderr, "mien: %s.%s See `mien %s--help`.\n", text.c_str(), hint.empty() ? "" : (" Did you mean " + hint + "?").c_str(), command ? (full_name(*command) + " ").c_str() : "");
  return code(Exit::usage);
}

int help(const CLI::App& app, const std::vector<std::string>& topics) {
  const std::string topic = topics.empty() ? "" : topics[0];
  if (topic.empty()) {
    std::printf("%s", app.help().c_str());
    return 0;
  }
  if (topic == "exit-codes") {
    for (const auto& [c, meaning] : exit_texts) std::printf("%3d  %s\n", code(c), meaning);
    std::printf("130, 143  stopped by Ctrl-C or a termination signal, with everything saved\n");
    return 0;
  }
  std::vector<std::string> known{"exit-codes"};
  for (const CLI::App* c : app.get_subcommands({})) {
    if (c->get_name() == topic) {
      for (std::size_t i = 1; i < topics.size(); ++i) {  // eval lfw
        std::vector<std::string> inner;
        const CLI::App* next = nullptr;
        for (const CLI::App* b : c->get_subcommands([](const CLI::App*) { return true; })) {
          inner.push_back(b->get_name());
          if (b->get_name() == topics[i]) next = b;
        }
        if (!next) {
          const std::string close = cli::nearest(topics[i], inner);
          std::fprintf(stderr, "mien: there is no help on %s %s.%s\n", full_name(*c).c_str(), topics[i].c_str(), close.empty() ? "" : (" Did you mean " + close + "?").c_str());
          return code(Exit::usage);
        }
        c = next;
      }
      std::printf("%s", c->help().c_str());
      return 0;
    }
    known.push_back(c->get_name());
  }
  const std::string near = cli::nearest(topic, known);
  std::fprintf(stderr, "mien: there is no help on %s.%s\n", topic.c_str(), near.empty() ? "" : (" Did you mean " + near + "?").c_str());
  return code(Exit::usage);
}

// The exit code, unless what was printed did not arrive.
int printed(int result) {
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return result;
  std::perror("mien: writing to stdout");
  return code(Exit::io);
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_DFL);  // `mien detect ... | head` ends quietly
  CLI::App app{"mien: deep learning from scratch, face models first"};
  app.set_version_flag("--version", cli::version_text);
  app.require_subcommand(0, 1);
  std::map<const CLI::App*, cli::Run> commands;
  const auto add = [&](const char* name, const char* what, cli::Run (*f)(CLI::App&)) {
    CLI::App* c = app.add_subcommand(name, what);
    commands[c] = f(*c);
  };
  add("detect", "Find faces in pictures", cli::add_detect);
  add("embed", "Turn faces into embeddings", cli::add_embed);
  add("verify", "Tell whether two pictures show the same person", cli::add_verify);
  add("align", "Cut faces out as an embedding net looks at them", cli::add_align);
  add("convert", "Turn weights of other programs into mien's", cli::add_convert);
  add("inspect", "Show what a weights file holds", cli::add_inspect);
  add("eval", "Measure how good a model is", cli::add_eval);
  add("bench", "Measure how fast a net or the detector is here", cli::add_bench);
  add("doctor", "Show what this machine and build can do", cli::add_doctor);
  std::vector<std::string> topics;
  CLI::App* help_command = app.add_subcommand("help", "Explain a command, or the exit codes (mien help exit-codes)");
  help_command->add_option("TOPIC", topics, "A command (two words for one within another, as eval lfw) or exit-codes");
  commands[help_command] = [&] { return help(app, topics); };
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) {  // --help, --version
      std::ostringstream out, errors;
      app.exit(e, out, errors);
      std::printf("%s", out.str().c_str());
      return printed(0);
    }
    const CLI::App* chosen = nullptr;  // the innermost command
    for (auto below = app.get_subcommands(); !below.empty(); below = below[0]->get_subcommands()) chosen = below[0];
    return usage_error(app, chosen, e, argc, argv);
  }
  if (app.get_subcommands().empty()) return printed(help(app, {}));
  try {
    return printed(commands.at(app.get_subcommands()[0])());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "mien: %s\n", e.what());
    return code(exit_code(e));
  }
}
