"""Traces and their comparison. Not specific to Qwen3-VL; needs only numpy and safetensors."""
