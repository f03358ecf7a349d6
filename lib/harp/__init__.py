"""HarpCaller: calls procedures on remote machines and keeps their results.

The names of the client library and of procedures files. No server code is imported
here, and nothing that a short command-line call would wait for.
"""
