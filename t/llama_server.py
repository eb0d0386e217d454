#!/usr/bin/env python3
"""llama-cpp-python's server, without the weight layouts that crash on some processors.

    llama_server.py [OPTION...]         # those of python -m llama_cpp.server

With AMX, ggml's packed layouts end in a segmentation fault for some quantisations; the server has no option
against them.
"""

import llama_cpp
import llama_cpp.llama_cpp as binding
from llama_cpp.server.__main__ import main

defaults = binding.llama_model_default_params


def without_packing():
    """The default parameters, less the packed layouts."""
    params = defaults()
    params.use_extra_bufts = False
    return params


binding.llama_model_default_params = llama_cpp.llama_model_default_params = without_packing
main()
