// A small test runner: TEST registers a test, CHECK and CHECK_ERROR report failures, main runs all.
#pragma once

#include <functional>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "mammoth/error.hpp"

namespace mammoth::test {

struct TestCase {
    const char* name;
    void (*run)();
};

inline std::vector<TestCase>& test_cases() {
    static std::vector<TestCase> all;
    return all;
}

inline int failures = 0;

inline bool add(TestCase test) {
    test_cases().push_back(test);
    return true;
}

inline void check(bool ok, const std::string& what, const char* file, int line) {
    if (ok) return;
    std::cerr << file << ':' << line << ": FAILED: " << what << '\n';
    ++failures;
}

/// `call` must throw Error with `code` and `text` in its message.
inline void check_error(ErrorCode code, std::string_view text, const std::function<void()>& call,
                        const char* file, int line) {
    std::string got = "no error";
    try {
        call();
    } catch (const Error& error) {
        got = std::string(to_string(error.code())) + ": " + error.what();
        if (error.code() == code && got.find(text) != std::string::npos) return;
    } catch (const std::exception& error) {
        got = std::string("another exception: ") + error.what();
    }
    check(false,
          "expected " + std::string(to_string(code)) + " with '" + std::string(text) + "', got " +
              got,
          file, line);
}

inline int run_all() {
    for (const auto& [name, run] : test_cases()) {
        const int before = failures;
        try {
            run();
        } catch (const std::exception& error) {
            check(false, std::string("exception: ") + error.what(), name, 0);
        }
        std::cout << (failures == before ? "ok      " : "FAILED  ") << name << '\n';
    }
    return failures == 0 && !test_cases().empty() ? 0 : 1;
}

}  // namespace mammoth::test

#define TEST(name)                                                      \
    static void name();                                                 \
    static const bool name##_added = mammoth::test::add({#name, name}); \
    static void name()
#define CHECK(condition) mammoth::test::check((condition), #condition, __FILE__, __LINE__)
#define CHECK_ERROR(code, text, ...) \
    mammoth::test::check_error(      \
        mammoth::ErrorCode::code, text, [&] { (void)(__VA_ARGS__); }, __FILE__, __LINE__)
