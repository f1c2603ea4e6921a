"""A web app on this machine that shows trained runs: samples, steps, two runs, interpolation, nearest images, curves.

`library` reads runs and `sampling` samples from them; `markup` and `curves` turn results into HTML; `interface` builds
the page with Gradio, and `server` serves it on the loopback interface.
"""
