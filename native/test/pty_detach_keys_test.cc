// DetachKeys: whatever is typed passes exactly once and in order, or is the sequence.
#include <doctest/doctest.h>

#include <random>
#include <string>
#include <string_view>

#include "pty/detach_keys.h"

namespace embervm::pty {
namespace {

std::vector<std::byte> Bytes(std::string_view text) {
  std::vector<std::byte> bytes;
  for (const char key : text) bytes.push_back(static_cast<std::byte>(key));
  return bytes;
}

std::string Text(const std::vector<std::byte>& bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += static_cast<char>(byte);
  return text;
}

struct Outcome {
  std::string passed;
  bool detached = false;
};

Outcome Type(std::string_view sequence, std::string_view typed, std::size_t piece = 1) {
  DetachKeys keys(Bytes(sequence));
  std::vector<std::byte> passed;
  for (std::size_t at = 0; at < typed.size(); at += piece) {
    if (keys.Filter(Bytes(typed.substr(at, piece)), passed)) return {Text(passed), true};
  }
  return {Text(passed), false};
}

TEST_CASE("one key detaches, and what is typed behind it is dropped") {
  const Outcome outcome = Type("\x1d",
                               "abc\x1d"
                               "def",
                               100);
  CHECK(outcome.detached);
  CHECK(outcome.passed == "abc");
}

TEST_CASE("a sequence detaches when it is complete, also in pieces") {
  for (const std::size_t piece : {1UZ, 2UZ, 3UZ, 100UZ}) {
    const Outcome outcome = Type("\x10\x11", "ls\n\x10\x11", piece);
    CHECK(outcome.detached);
    CHECK(outcome.passed == "ls\n");
  }
}

TEST_CASE("keys that only begin the sequence pass once the next has told") {
  CHECK(Type("\x10\x11", "\x10").passed.empty());
  CHECK(Type("\x10\x11", "\x10x").passed == "\x10x");
  CHECK(Type("\x10\x11", "\x10\x10x").passed == "\x10\x10x");
  CHECK(Type("\x10\x11", "\x10\x10\x11").passed == "\x10");
  CHECK(Type("\x10\x11", "\x10\x10\x11").detached);
}

TEST_CASE("a sequence that repeats itself is found after a false start") {
  const Outcome outcome = Type("aabaac", "aabaabaac");
  CHECK(outcome.detached);
  CHECK(outcome.passed == "aab");
}

TEST_CASE("without a sequence everything passes") {
  const Outcome outcome = Type("", "any\x1dthing");
  CHECK(!outcome.detached);
  CHECK(outcome.passed == "any\x1dthing");
}

TEST_CASE("it agrees with a search of the whole text") {
  std::mt19937 random(5);
  for (int round = 0; round < 3000; round++) {
    const auto letters = [&](std::size_t length) {
      std::string text;
      for (std::size_t i = 0; i < length; i++) text += static_cast<char>('a' + random() % 2);
      return text;
    };
    const std::string sequence = letters(1 + random() % 5);
    const std::string typed = letters(random() % 30);
    const Outcome outcome = Type(sequence, typed, 1 + random() % 4);
    const std::size_t at = typed.find(sequence);
    CHECK(outcome.detached == (at != std::string::npos));
    if (outcome.detached) {
      CHECK(outcome.passed == typed.substr(0, at));
    } else {
      // What is held back is the longest tail that begins the sequence.
      const std::size_t held = typed.size() - outcome.passed.size();
      CHECK(typed.starts_with(outcome.passed));
      CHECK(sequence.starts_with(typed.substr(typed.size() - held)));
      for (std::size_t longer = held + 1; longer < sequence.size() && longer <= typed.size();
           longer++) {
        CHECK(!sequence.starts_with(typed.substr(typed.size() - longer)));
      }
    }
  }
}

}  // namespace
}  // namespace embervm::pty
