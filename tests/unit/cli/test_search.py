import subprocess

from firekiln.store import Store
from machines import argv, put_image
from trees import folder


def test_images_are_found_by_name_and_description(tmp_path):
    with Store.open(tmp_path / "store") as store:
        put_image(store, "team/web:1", folder(), labels={"org.opencontainers.image.description": "Serves the Shop"})
        put_image(store, "other:2", folder(), labels={"x": "y"})

        def names(term):
            done = subprocess.run(
                argv(store, "search", "--format", "{{.Name}}:{{.Tag}}", term),
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout.split()

        assert names("WEB") == ["team/web:1"]
        assert names("the shop") == ["team/web:1"]
        assert names("other:2") == ["other:2"]
        assert names("nothing of that name") == []
