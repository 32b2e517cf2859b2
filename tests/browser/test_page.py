"""What a person does on the page: pictures, camera, faces, errors, settings, keyboard, dark and narrow screens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from support.browser import NO_FACE, TWO_FACES, OpenPage
from support.grey_model import GreyModel
from support.hostile.images import encoded

from lhcnet.data.drawn_faces import draw
from lhcnet.prediction.predictor import Predictor

pytestmark = pytest.mark.browser

FACES = draw(42, seed=0).images
FACE = encoded(Image.fromarray(FACES[0]).resize((150, 150)))


def file(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def two_faces() -> bytes:
    picture = Image.new("L", (TWO_FACES, 100), 128)
    for index in range(2):
        picture.paste(Image.fromarray(FACES[index]).resize((92, 92)), (4 + 100 * index, 4))
    return encoded(picture)


def hand_over(page: Any, kind: str, name: str, content: str) -> None:
    """Drop or paste a file, whose content is a JavaScript expression."""
    page.evaluate(
        f"""([kind, name]) => {{
            const data = new DataTransfer();
            data.items.add(new File([{content}], name, {{type: "image/png"}}));
            const event = kind === "drop"
                ? new DragEvent("drop", {{dataTransfer: data, bubbles: true, cancelable: true}})
                : new ClipboardEvent("paste", {{clipboardData: data, bubbles: true}});
            document.body.dispatchEvent(event);
        }}""",
        [kind, name],
    )


def said(page: Any, text: str) -> None:
    """Wait for the words in the region that is read out. `wait_for_function` needs eval, which the page forbids."""
    page.locator("#status", has_text=text).wait_for()


def test_uploaded_pictures_get_exactly_the_probabilities_of_the_predictor(open_page: OpenPage) -> None:
    page = open_page()
    page.set_input_files("#files", [file("one.png", FACE), file("two.png", two_faces())])
    said(page, "two.png: 2 faces. Face 1: ")
    assert page.locator("article h3").all_text_contents() == ["two.png", "one.png"]
    one = page.locator("article").nth(1)
    names = one.locator("tbody th").all_text_contents()
    values = one.locator("[data-probability]").evaluate_all("all => all.map(one => Number(one.dataset.probability))")
    (face,) = Predictor(GreyModel(2.0)).predict(FACE)
    assert dict(zip(names, values, strict=True)) == face.probabilities
    assert one.locator("h4").text_content() == f"{face.best}, {100 * face.confidence:.0f} %"
    two = page.locator("article").nth(0)
    assert two.locator(".boxes span").count() == 2
    assert two.locator("img").first.get_attribute("alt") == "two.png, with 2 faces"
    assert "Predicted in" in two.locator("figcaption").text_content()


def test_no_face_and_hostile_files_are_answered_and_the_next_picture_too(open_page: OpenPage) -> None:
    page = open_page()
    page.set_input_files(
        "#files",
        [
            file("<img src=x onerror=alert(1)>.png", b"no picture"),
            file("cut.png", FACE[:-40]),
            file("empty.png", encoded(Image.new("L", (NO_FACE, 80)))),
        ],
    )
    said(page, "empty.png: no face was found")
    errors = page.locator("#errors p").all_text_contents()
    names = ["<img src=x onerror=alert(1)>.png", "cut.png"]
    assert [error.partition(": ")[0] for error in errors] == names
    assert "expected an undamaged PNG" in errors[0]
    assert page.locator(".face").count() == 0
    page.locator("#find").uncheck()  # the picture is one face now
    said(page, "empty.png: anger")
    assert "blank" in page.locator(".notes").text_content()
    hand_over(page, "drop", "large.png", "new Uint8Array(21 << 20)")
    page.locator("#errors p", has_text="large.png: has 21.0 MB, expected a picture of 20 MB at most").wait_for()


def test_settings_apply_to_the_pictures_that_are_shown(open_page: OpenPage) -> None:
    page = open_page()
    page.set_input_files("#files", file("one.png", FACE))
    said(page, "one.png: ")
    assert page.locator("#threshold-hint").text_content() == "Every face gets a label."
    page.locator("#threshold").fill("12")
    assert page.locator("h4").text_content().startswith("unsure, perhaps ")
    assert "with the threshold 0.6, 80 of 100 images got a label" in page.locator("#threshold-hint").text_content()
    page.locator("#tta").check()
    page.locator("figcaption", has_text="test-time augmentation").wait_for()
    page.get_by_role("button", name="class activation").click()
    page.locator(".explanation", has_text="white line").wait_for()
    page.get_by_role("button", name="attention").click()
    page.locator(".explanation", has_text="LHC modules").wait_for()
    assert page.locator("[aria-pressed=true]").count() == 0


def test_the_camera_gives_pictures_until_it_is_stopped(open_page: OpenPage) -> None:
    page = open_page(permissions=["camera"])
    page.locator("#camera-start").click()
    page.locator("#camera-take").wait_for()
    assert page.evaluate("document.activeElement.id") == "camera-take"
    page.locator("#camera-take").click()
    said(page, "Camera, ")
    page.wait_for_selector("article")
    page.evaluate("window.track = document.getElementById('video').srcObject.getTracks()[0]")
    page.locator("#camera-stop").click()
    assert page.evaluate("window.track.readyState") == "ended"
    assert page.locator("#camera").is_hidden()


def test_everything_works_with_the_keyboard_alone(open_page: OpenPage) -> None:
    page = open_page()
    order = []
    for _ in range(12):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    expected = ["Skip to the results", "Model card", "files", "camera-start", "find", "tta", "threshold"]
    assert [one for one in order if one in expected][:8] == [*expected, expected[0]]  # and around again: no trap
    page.locator("#files").focus()
    outline = "getComputedStyle(document.querySelector('#files + .button')).outlineStyle"
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(outline) == "solid"
    page.evaluate("document.querySelector('#files').addEventListener('click', () => { document.title = 'opened' })")
    page.keyboard.press("Enter")
    assert page.title() == "opened"  # the chooser itself does not open in every headless Chromium
    page.set_input_files("#files", file("keys.png", FACE))
    said(page, "keys.png: ")
    page.locator("#threshold").focus()
    page.keyboard.press("End")
    assert page.locator("#threshold-value").text_content() == "95 %"
    page.locator("#find").focus()
    page.keyboard.press("Space")
    assert not page.locator("#find").is_checked()


def test_pasted_and_dropped_pictures_are_taken(open_page: OpenPage) -> None:
    page = open_page()
    for kind in ("drop", "paste"):
        hand_over(page, kind, f"{kind}.png", f"Uint8Array.from({list(FACE)})")
        said(page, f"{kind}.png: ")
    assert page.locator("article h3").all_text_contents() == ["paste.png", "drop.png"]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_it_is_legible_in_both_schemes_and_fits_a_phone(
    scheme: str, width: int, open_page: OpenPage, tmp_path: Path
) -> None:
    """axe-core's rules (WCAG 2.2 A and AA: contrast, names, roles), no sideways scrolling."""
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
    page.set_input_files("#files", [file("one.png", FACE), file("two.png", two_faces()), file("no.png", b"no")])
    page.wait_for_selector("#errors p")
    page.locator("#threshold").fill("12")
    folder = Path(os.environ.get("LHCNET_SCREENSHOTS", tmp_path))
    page.screenshot(path=folder / f"{scheme}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    assert not [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]
