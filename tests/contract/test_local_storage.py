import json

import pytest

from pelton.drivers.local_storage import LocalStorageBinding
from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component
from tests.contract.binding import BindingContract


def open_binding(root):
    metadata = {"rootPath": str(root)}
    return LocalStorageBinding(
        Component(namespace="shop", name="files", type="bindings.localstorage", metadata=metadata)
    )


class TestLocalStorageBinding(BindingContract):
    @pytest.fixture
    def binding(self, tmp_path):
        return open_binding(tmp_path / "files")

    @pytest.fixture
    def unreachable(self, tmp_path):
        (tmp_path / "file").write_text("no directory")
        return open_binding(tmp_path / "file")

    async def test_files_are_written_listed_read_and_deleted(self, binding, tmp_path):
        answer = await binding.invoke("create", b"\x00x", {"fileName": "a/b.bin"})
        path = tmp_path / "files" / "a" / "b.bin"
        assert json.loads(answer.data) == {"fileName": str(path)}
        assert path.read_bytes() == b"\x00x"
        random = json.loads((await binding.invoke("create", b"y", {})).data)["fileName"]
        listed = json.loads((await binding.invoke("list", b"", {})).data)
        assert sorted(listed) == sorted([str(path), random])
        assert (await binding.invoke("get", b"", {"fileName": "a/b.bin"})).data == b"\x00x"
        await binding.invoke("delete", b"", {"fileName": "a/b.bin"})
        with pytest.raises(DeliveryError, match="does not exist"):
            await binding.invoke("get", b"", {"fileName": "a/b.bin"})

    @pytest.mark.parametrize("name", ["../x", "a/../../x", "link/x", "a\0b"])
    async def test_names_do_not_lead_out(self, binding, tmp_path, name):
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "link").symlink_to(tmp_path)
        with pytest.raises(ComponentError, match="leads out"):
            await binding.invoke("create", b"x", {"fileName": name})
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("root", ["/", "/etc/x", "/proc", "/usr/../dev", ""])
def test_places_of_the_system_are_refused(root):
    with pytest.raises(ComponentError, match="rootPath"):
        open_binding(root)
