"""Uses the page in headless Chromium, with a made-up engine behind it.

    browser.py CHROMIUM URL URL_WITH_KEY [PICTURES]
"""

import re
import sys

from playwright.sync_api import Page, expect, sync_playwright

HOSTILE = re.compile(r"<img src=x onerror=.*</script>.*alert\(1\)", re.S)

CHECK_INTERPOLATION = """async () => {
  const { interpolate, withOne, weightsAt, place } = await import("/assets/weights.js");
  const near = (a, b) => Math.abs(a - b) < 1e-6;
  const grid = (parts, steps) => parts === 1 ? [[steps]] : Array.from({ length: steps + 1 }, (_, i) => grid(parts - 1, steps - i).map((rest) => [i, ...rest])).flat();
  for (const n of [1, 2, 3, 4, 5]) {
    const slope = Array.from({ length: n }, (_, i) => Math.sin(3 * i + 1));
    for (const steps of [1, 2, 3, 10]) {
      const points = grid(n, steps).map((multiples) => {
        const weights = multiples.map((m) => m / steps);
        return { weights, means: [weights.reduce((sum, w, i) => sum + w * slope[i], 0)] };
      });
      for (let k = 0; k < 200; k++) {
        let weights = Array.from({ length: n }, () => (k % 3 ? Math.random() : Math.floor(3 * Math.random())));
        const sum = weights.reduce((a, b) => a + b, 0) || 1;
        weights = weights.map((w) => w / sum);
        if (weights.every((w) => w === 0)) weights[0] = 1;
        const expected = weights.reduce((total, w, i) => total + w * slope[i], 0);
        const found = interpolate(points, steps, weights)[0];
        if (!near(found, expected)) return `${n} policies, ${steps} steps, ${weights}: ${found} for ${expected}`;
      }
      for (const point of points) {
        if (!near(interpolate(points, null, point.weights)[0], point.means[0])) return `no grid: ${point.weights}`;
      }
    }
    let weights = Array(n).fill(1 / n);
    for (let k = 0; k < 200; k++) {
      weights = withOne(weights, k % n, Math.floor(4 * Math.random()) / 3 - 0.1);
      if (!near(weights.reduce((a, b) => a + b, 0), 1) || weights.some((w) => w < 0)) return `sliders: ${weights}`;
    }
  }
  for (let k = 0; k < 200; k++) {
    const [a, b] = [Math.random(), Math.random()];
    const weights = [a * b, a * (1 - b), 1 - a];
    if (!weightsAt(...place(weights)).every((w, i) => near(w, weights[i]))) return `triangle: ${weights}`;
  }
  return "fine";
}"""


def main() -> None:
    browser_path, url, locked, *pictures = sys.argv[1:]
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])

        def fresh(where: str, **options) -> Page:
            page = browser.new_page(**options)
            page.problems = []
            page.on("pageerror", lambda error: page.problems.append(str(error)))
            page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
            page.foreign = []
            host = "/".join(url.split("/")[:3])
            page.on("request", lambda request: None if request.url.startswith(host) else page.foreign.append(request.url))
            page.goto(where)
            return page

        def ready(page: Page) -> Page:
            expect(page.locator("body[data-ready=true]")).to_be_attached()
            return page

        def ask(page: Page, question: str) -> None:
            page.locator("#question").fill(question)
            page.keyboard.press("Enter")

        def picture(page: Page, name: str) -> None:
            if pictures:
                page.screenshot(path=f"{pictures[0]}/{name}.png", full_page=True)

        def clean(page: Page) -> None:
            assert not page.problems, page.problems
            assert not page.foreign, page.foreign

        # Between the points of a grid means are interpolated: exactly, where they are linear in the weights. Without the
        # grid, the points themselves have their own means.
        page = ready(fresh(url))
        assert page.evaluate(CHECK_INTERPOLATION) == "fine"

        # Slide: the others keep their proportions, and the point on the front moves along.
        point = page.locator(".chosen[data-means]")
        expect(page.locator("#weight-0")).to_have_text("33 %")
        slider = page.locator("#slider-0")
        slider.focus()
        page.keyboard.press("End")
        expect(page.locator("#weight-0")).to_have_text("100 %")
        expect(point).to_have_attribute("data-means", "1.0000,0.0000,0.0000")
        slider.fill("50")
        expect(page.locator("#weight-1")).to_have_text("25 %")
        # Half way between two mixtures that were evaluated.
        expect(point).to_have_attribute("data-means", "0.6000,0.3500,0.3500")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#weight-0")).to_have_text("51 %")

        # The triangle by keys and by pointer, and the points of the front by keys.
        page.locator("#triangle").focus()
        page.keyboard.press("Home")
        expect(page.locator("#triangle")).to_have_attribute("aria-valuetext", "helpful")
        page.keyboard.press("ArrowDown")
        expect(page.locator("#weight-0")).to_have_text("98 %")
        box = page.locator("#triangle").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 22 / 220 * box["width"], box["y"] + 172 / 200 * box["height"], steps=4)
        page.mouse.up()
        expect(page.locator("#weight-1")).to_have_text("100 %")
        page.locator("circle.point.mixture").first.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#weight-0")).to_have_text("50 %")
        expect(page.locator("#weight-2")).to_have_text("0 %")
        page.locator("#axis-y").select_option("2")
        expect(page.locator("#front-place text", has_text="humor →")).to_be_visible()

        # Ask: the answer is that of the chosen weights, with its scores.
        ask(page, "hello there")
        answer = page.locator(".turn").last.locator(".answer")
        expect(answer.locator(".text")).to_have_text("mixture 0.50/0.50/0.00 heard: hello there #0")
        expect(answer.locator(".scores")).to_contain_text("helpful 0.00")
        expect(page.locator("#status")).to_contain_text("answered in")

        # Compare: up to four settings answer one question.
        page.locator("#add").click()
        slider.fill("0")
        page.locator("#add").click()
        page.locator("#sft").check()
        page.locator("#add").click()
        expect(page.locator("#add")).to_have_count(0)
        ask(page, "compare")
        answers = page.locator(".turn").last.locator(".answer")
        expect(answers).to_have_count(4)
        expect(answers.nth(0).locator(".text")).to_have_text("mixture 0.50/0.50/0.00 heard: compare #0")
        expect(answers.nth(1).locator(".text")).to_have_text("policy 1 heard: compare #0")
        expect(answers.nth(2).locator(".text")).to_have_text("sft heard: compare #0")
        expect(answers.nth(3).locator("h3")).to_have_text("D SFT model")
        expect(page.locator(".turn").last.locator(".scores")).to_have_count(4)
        picture(page, "compare")
        page.locator("#remove").click()
        expect(page.locator("#settings [data-letter]")).to_have_count(3)

        # Streaming, and stop: what has come stays.
        page.locator("#sampling summary").click()
        page.locator("#tokens").fill("600")
        ask(page, "slow long")
        text = page.locator(".turn").last.locator(".answer").first.locator(".text")
        expect(text).to_contain_text("word3")
        expect(page.locator("#ask")).to_be_disabled()
        page.locator("#stop").click()
        expect(page.locator(".turn").last.locator(".end").first).to_have_text("stopped")
        expect(page.locator("#ask")).to_be_enabled()
        assert "word599" not in text.inner_text()
        clean(page)

        # The link restores all of it.
        page.locator("#temperature").fill("2")
        page.locator("#seed").fill("7")
        page.locator("#copy").click()
        link = page.url
        again = ready(fresh(link))
        expect(again.locator("#settings [data-letter]")).to_have_count(3)
        expect(again.locator("#temperature")).to_have_value("2")
        expect(again.locator("#axis-y")).to_have_value("2")
        ask(again, "hi")
        expect(again.locator(".answer .text").first).to_have_text("[seed 7] mixture 0.50/0.50/0.00 heard: hi #0")
        clean(again)
        for nonsense in ["#s=1,2", "#s=NaN,1,0&on=9&t=x", "#s=%3Cimg%20src=x%3E&axes=8,9", "#s=-1,0,0"]:
            odd = ready(fresh(url + nonsense))
            expect(odd.locator("#weight-0")).to_have_text("33 %")
            clean(odd)
            odd.close()

        # Hostile text stays text, in answers, questions and errors.
        page = ready(fresh(url))
        ask(page, "hostile <img src=x onerror=\"document.title='owned'\">")
        answer = page.locator(".answer").last
        expect(answer.locator(".text")).to_have_text(HOSTILE)
        expect(page.locator("#turns img, #turns script, #turns svg")).to_have_count(0)
        expect(page.locator(".question").last).to_contain_text("<img src=x")
        assert page.title() == "MOPO: run", page.title()
        picture(page, "hostile")
        clean(page)
        ask(page, "panic now")
        expect(page.locator(".answer").last.locator(".end.error")).to_contain_text("try again")
        page.problems.clear()  # Chromium reports the status 500 itself.
        ask(page, "empty")
        expect(page.locator(".answer").last.locator(".end")).to_have_text("an empty answer")
        # An answer that is empty or failed is not sent back, so the conversation goes on.
        ask(page, "onwards")
        expect(page.locator(".answer").last.locator(".text")).to_contain_text("heard: onwards")

        # A key, kept in the tab; a wrong one is asked for again.
        page = fresh(locked)
        for key, error in [("wrong", "the API key is wrong"), ("secret", "")]:
            expect(page.locator("#login")).to_be_visible()
            page.locator("#key-input").fill(key)
            page.keyboard.press("Enter")
            if error:
                expect(page.locator("#login-error")).to_have_text(error)
        ready(page)
        expect(page.locator("#login")).to_be_hidden()
        ask(page, "with a key")
        expect(page.locator(".answer .text")).to_contain_text("heard: with a key")
        page.reload()
        ready(page)

        # A phone, and both colour schemes: nothing is cut off, everything can be reached.
        for scheme in ["light", "dark"]:
            for width in [360, 1280]:
                page = ready(fresh(url + "#s=0.5,0.5,0&s=0,0,1", viewport={"width": width, "height": 740}, color_scheme=scheme))
                ask(page, "a question with averyveryveryveryveryveryveryveryveryveryveryverylargeword in it")
                expect(page.locator(".scores")).to_have_count(2)
                expect(page.locator("#stop")).to_be_hidden()
                assert page.evaluate("() => document.documentElement.scrollWidth") <= width
                for button in page.locator("button:visible").all():
                    box = button.bounding_box()
                    assert box["x"] >= 0 and box["x"] + box["width"] <= width, (button.inner_text(), box)
                luminance = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
                assert (int(re.findall(r"\d+", luminance)[0]) < 128) == (scheme == "dark"), luminance
                picture(page, f"{scheme}-{width}")
                clean(page)
                page.close()
        browser.close()
    print("all checks passed")


main()
