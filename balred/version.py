"""The version of the package: read by the build, the command, and files of models."""

VERSION = "0.2.0"
