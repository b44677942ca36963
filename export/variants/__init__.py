"""Smaller ONNX models, float16 and int8, and the checks that admit them."""
