"""Where transformers finds a model: a directory, or a GGUF file in one."""
import os


def model_source(model):
    folder, file = os.path.split(model)
    if file.endswith(".gguf"):
        return dict(pretrained_model_name_or_path=folder or ".", gguf_file=file)
    return dict(pretrained_model_name_or_path=model)
