"""Optional native kernels: plain C beside the torch functions they stand in for. Nothing here is ever required."""
