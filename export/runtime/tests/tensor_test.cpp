#include "mammoth/tensor.hpp"

#include "check.hpp"

using namespace mammoth;

TEST(view_copies_nothing) {
    const std::vector<float> values(6);
    const TensorView view(values, {2, 3});
    CHECK(view.data() == values.data());
    CHECK(view.size_bytes() == 24);
    CHECK(view.dtype() == DType::float32);
}

TEST(values_must_match_the_shape) {
    const std::vector<float> values(6);
    CHECK_ERROR(contract, "6 values do not fill the shape [2, 4]", TensorView(values, {2, 4}));
    CHECK_ERROR(contract, "do not fill", Tensor(std::vector<std::uint8_t>(3), {4}));
    CHECK(Tensor(std::vector<float>(1), {}).shape().empty());
}

TEST(overflowing_sizes_are_refused) {
    const std::int64_t large = std::int64_t{1} << 40;
    CHECK_ERROR(contract, "too large", element_count({large, large}));
    CHECK_ERROR(contract, "negative", element_count({2, -1}));
    CHECK(element_count({large, 0, large}) == 0);
}

TEST(access_with_the_wrong_dtype_is_refused) {
    const Tensor bytes(std::vector<std::uint8_t>{1, 2}, {2});
    CHECK(bytes.bytes()[1] == 2);
    CHECK_ERROR(contract, "uint8, not float32", bytes.floats());
    CHECK_ERROR(contract, "float32, not uint8", Tensor().bytes());
    CHECK(bytes.view().dtype() == DType::uint8);
    CHECK(Tensor().empty());
}
