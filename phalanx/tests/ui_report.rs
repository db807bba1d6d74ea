//! The page of a report in a browser: it draws, asks the network for nothing, and runs nothing
//! that a packet says. Run by `cargo xtask test --ring ui`.
//!
//! With `PHALANX_UI_PICTURES` set to a folder, pictures of the page are left there.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "report/browser.rs"]
mod browser;
#[path = "report/fixture.rs"]
mod fixture;
#[path = "report/transfer.rs"]
mod transfer;

use std::path::PathBuf;

use browser::Browser;
use phalanx::report::{Report, html};
use serde_json::{Value, json};

/// How many colours each canvas shows: a blank one has one.
const COLOURS: &str = "[...document.querySelectorAll('canvas')].map((canvas) => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
})";

fn open(browser: &mut Browser, report: &Report) -> PathBuf {
    let mut page = Vec::new();
    html::write(report, &mut page).unwrap();
    let path = browser.path("page.html");
    std::fs::write(&path, page).unwrap();
    let size = json!({"width": 1400, "height": 2000, "deviceScaleFactor": 1, "mobile": false});
    browser.call("Emulation.setDeviceMetricsOverride", size);
    browser.open(&path);
    path
}

fn picture(browser: &mut Browser, name: &str) {
    let Some(folder) = std::env::var_os("PHALANX_UI_PICTURES") else {
        return;
    };
    use base64::Engine as _;
    let shot = browser.call(
        "Page.captureScreenshot",
        json!({"captureBeyondViewport": true}),
    );
    let engine = base64::engine::general_purpose::STANDARD;
    let bytes = engine.decode(shot["data"].as_str().unwrap()).unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(PathBuf::from(folder).join(name), bytes).unwrap();
}

fn choose(browser: &mut Browser, id: &str) {
    let found = browser.evaluate(&format!(
        "(() => {{ const button = [...document.querySelectorAll('#list td button')]
            .find((it) => it.textContent === '{id}');
            button.click(); return document.querySelector('#detail h2').textContent; }})()"
    ));
    assert!(
        found.as_str().unwrap().starts_with(&format!("{id}:")),
        "{found}"
    );
}

fn count(value: &Value) -> Vec<u64> {
    let list = value.as_array().unwrap().iter();
    list.map(|value| value.as_u64().unwrap()).collect()
}

#[test]
fn the_page_draws_without_an_error_and_without_the_network() {
    let Some(mut browser) = Browser::start("draw") else {
        return;
    };
    let path = open(&mut browser, &fixture::report());
    picture(&mut browser, "first.png");
    choose(&mut browser, "1");
    let colours = count(&browser.evaluate(COLOURS));
    assert_eq!(colours.len(), 3);
    assert!(
        colours.iter().all(|count| *count > 8),
        "a canvas is blank: {colours:?}"
    );
    picture(&mut browser, "transfer.png");

    let rows = browser.evaluate("document.querySelectorAll('.ladder .rows .row').length");
    assert!((5..60).contains(&rows.as_u64().unwrap()), "{rows}");
    let scroll = "(async () => {
        const ladder = document.querySelector('.ladder');
        ladder.scrollTop = 1e9;
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)));
        return ladder.textContent.includes('FIN ACK');
    })()";
    assert_eq!(
        browser.evaluate(scroll),
        true,
        "the end of the ladder is not shown"
    );

    for id in ["2", "3", "4", "5", "6", "7"] {
        choose(&mut browser, id);
    }
    assert_eq!(browser.errors, Vec::<String>::new());
    assert_eq!(browser.requests, [format!("file://{}", path.display())]);
}

#[test]
fn dragging_zooms_and_reset_shows_all() {
    let Some(mut browser) = Browser::start("zoom") else {
        return;
    };
    open(&mut browser, &fixture::report());
    choose(&mut browser, "1");
    let corner = browser.evaluate(
        "(() => { document.querySelector('canvas').scrollIntoView();
            const box = document.querySelector('canvas').getBoundingClientRect();
            return [box.left, box.top, box.width]; })()",
    );
    let corner: Vec<f64> = serde_json::from_value(corner).unwrap();
    let data = "[...document.querySelector('canvas').toDataURL()]
        .reduce((hash, letter) => (hash * 31 + letter.charCodeAt(0)) | 0, 7)";
    let before = browser.evaluate(data);
    let (x, y) = (corner[0] + corner[2] * 0.3, corner[1] + 120.0);
    browser.drag((x, y), (x + 200.0, y + 150.0));
    let after = browser.evaluate(data);
    assert_ne!(before, after, "dragging does nothing");
    browser.evaluate("document.querySelector('#detail .bar button').click()");
    assert_eq!(browser.evaluate(data), before, "reset does not show all");
    let press = "document.querySelector('canvas')
        .dispatchEvent(new KeyboardEvent('keydown', { key: '+' }))";
    browser.evaluate(press);
    assert_ne!(browser.evaluate(data), before, "the keys do nothing");
    browser.evaluate("document.querySelectorAll('#detail fieldset input')[0].click()");
    assert_ne!(
        browser.evaluate(data),
        before,
        "the other direction looks the same"
    );
    let read = "document.querySelector('.readout').textContent";
    browser.evaluate("document.querySelectorAll('#detail fieldset input')[1].click()");
    let find = "(() => { const canvas = document.querySelector('canvas');
        const box = canvas.getBoundingClientRect();
        for (let x = 80; x < box.width; x += 4) for (let y = 24; y < 370; y += 8) {
            canvas.dispatchEvent(new PointerEvent('pointermove',
                { clientX: box.left + x, clientY: box.top + y }));
        } })()";
    browser.evaluate(find);
    let said = browser.evaluate(read);
    assert!(said.as_str().unwrap().starts_with("Frame "), "{said}");
    browser.drag((x - 60.0, y - 50.0), (x + 100.0, y + 250.0));
    picture(&mut browser, "zoom.png");
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn the_list_is_sorted_and_filtered() {
    let Some(mut browser) = Browser::start("list") else {
        return;
    };
    open(&mut browser, &fixture::report());
    let ids = "[...document.querySelectorAll('#list tbody tr')]
        .map((row) => row.firstChild.textContent).join(' ')";
    let worst_first = browser.evaluate(ids);
    assert_eq!(worst_first, "2 3 5 1 4 6 7");
    let press = |name: &str| {
        format!(
            "[...document.querySelectorAll('#list th button')]
            .find((it) => it.textContent.startsWith('{name}')).click()"
        )
    };
    browser.evaluate(&press("Received"));
    assert_eq!(browser.evaluate(ids), "2 6 5 7 3 4 1");
    browser.evaluate(&press("Received"));
    assert_eq!(browser.evaluate(ids), "1 4 3 5 7 2 6");
    let filter = "const field = document.getElementById('filter');
        field.value = 'udp 10.0.0.53'; field.dispatchEvent(new Event('input'))";
    browser.evaluate(filter);
    assert_eq!(browser.evaluate(ids), "5");
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn names_of_an_enemy_do_not_run() {
    let Some(mut browser) = Browser::start("enemy") else {
        return;
    };
    let path = open(&mut browser, &fixture::hostile());
    picture(&mut browser, "hostile.png");
    let hacked = "[window.hacked, document.images.length, document.scripts.length]";
    let rows = browser.evaluate("document.querySelectorAll('#list tbody tr').length");
    for index in 0..rows.as_u64().unwrap() {
        let press = format!("document.querySelectorAll('#list td button')[{index}].click()");
        browser.evaluate(&press);
        assert_eq!(browser.evaluate(hacked), json!([null, 0, 3]));
    }
    let turned = "/[\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\u0000-\\u0009\\u001b]/
        .test(document.querySelector('main').textContent)";
    assert_eq!(browser.evaluate(turned), false, "text is turned around");
    assert_eq!(browser.errors, Vec::<String>::new());
    assert_eq!(browser.requests, [format!("file://{}", path.display())]);
    // Should a name get into the page as markup all the same, the policy keeps it from running.
    let inject = "document.body.insertAdjacentHTML('beforeend',
        '<img src=\"x\" onerror=\"window.hacked = 1\">'),
        new Promise((done) => setTimeout(() => done(window.hacked === undefined), 200))";
    assert_eq!(
        browser.evaluate(inject),
        true,
        "the policy lets strange scripts run"
    );
}

#[test]
fn it_is_dark_where_people_want_it_dark() {
    let Some(mut browser) = Browser::start("dark") else {
        return;
    };
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.call("Emulation.setEmulatedMedia", dark);
    open(&mut browser, &fixture::report());
    choose(&mut browser, "1");
    picture(&mut browser, "dark.png");
    let ground = browser.evaluate("getComputedStyle(document.body).backgroundColor");
    assert_eq!(ground, "rgb(20, 22, 26)");
    assert_eq!(browser.errors, Vec::<String>::new());
}
