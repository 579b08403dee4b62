def open_archive(file, folder):
    return None


def unpack(archive, overlay, path, *, owner, made): ...
