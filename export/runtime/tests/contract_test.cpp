#include <iostream>

#include "mammoth/return_type.hpp"

namespace {
int failures = 0;
void check(bool ok, const char* what) {
    if (!ok) {
        std::cerr << "FAILED: " << what << '\n';
        ++failures;
    }
}
}  // namespace

int main() {
    using mammoth::ReturnType;
    for (auto type : {ReturnType::out, ReturnType::features, ReturnType::both})
        check(mammoth::parse_return_type(mammoth::to_string(type)) == type, "names round-trip");
    check(mammoth::output_names(ReturnType::both) == std::vector<std::string>{"out", "features"},
          "both is out, then features");
    try {
        mammoth::parse_return_type("foo");
        check(false, "an unknown name throws");
    } catch (const std::invalid_argument& error) {
        check(std::string(error.what()).find("valid: out, features, both") != std::string::npos,
              "the message lists the valid names");
    }
    return failures == 0 ? 0 : 1;
}
