//! The page of a report in a browser: it draws, asks the network for nothing, and runs nothing
//! that a packet says. Run by `cargo xtask test --ring ui`.
//!
//! With `PHALANX_UI_PICTURES` set to a folder, pictures of the page are left there.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "report/browser.rs"]
mod browser;
#[path = "report/fixture.rs"]
mod fixture;
#[path = "report/hops.rs"]
mod hops;
#[path = "report/transfer.rs"]
mod transfer;

use std::path::PathBuf;

use browser::Browser;
use phalanx::report::{Report, html, svg};
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
        assert_eq!(browser.evaluate(hacked), json!([null, 0, 4]));
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

/// Waits for what the page draws in its next frame.
const DRAWN: &str =
    "await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))";

/// Rows of the ladder that are in the page.
const ROWS: &str = "document.querySelectorAll('.ladder.hops .rows .row').length";

#[test]
fn a_page_across_hops_shows_path_legs_clocks_and_ladder() {
    let Some(mut browser) = Browser::start("across") else {
        return;
    };
    let path = open(&mut browser, &hops::report());
    let hops = browser.evaluate("document.getElementById('hops').textContent");
    for words in [
        "Clock: the reference",
        "1.20 ms behind that of client",
        "cannot be compared",
    ] {
        assert!(hops.as_str().unwrap().contains(words), "{hops}");
    }
    let detail = browser.evaluate("document.getElementById('detail').textContent");
    for words in [
        "client → edge → core → server, and back",
        "the client 10.0.0.2:51000 becomes 192.0.2.1:40001",
        "12 of 1,000",
        "± 41.0 µs",
    ] {
        assert!(
            detail.as_str().unwrap().contains(words),
            "{words}: {detail}"
        );
    }
    picture(&mut browser, "across.png");
    assert_eq!(browser.evaluate(ROWS), 13);
    let colours = count(&browser.evaluate(COLOURS));
    assert_eq!(colours.len(), 4, "three plots and a ladder");
    assert!(colours.iter().all(|count| *count > 8), "{colours:?}");
    let said = browser.evaluate(
        "[...document.querySelectorAll('.ladder.hops .notes')].map((it) => it.textContent)",
    );
    assert_eq!(said[3], "lost after core");
    assert_eq!(said[6], "copy of #6, network duplicate");
    assert_eq!(said[7], "arrived, not captured after core");
    assert_eq!(said[9], "repeats #4, timeout retransmission");

    choose(&mut browser, "client/tcp-9");
    let detail = browser.evaluate("document.getElementById('detail').textContent");
    assert!(
        detail
            .as_str()
            .unwrap()
            .contains("62 % to the server (620 packets)"),
        "{detail}"
    );
    choose(&mut browser, "edge/tcp-40");
    let ladders = "['.ladder', '.ladder.hops'].map((it) => document.querySelectorAll(it).length)";
    let detail = browser.evaluate("document.getElementById('detail').textContent");
    let words = "client/tcp-9 carries the same content beyond a proxy";
    assert!(detail.as_str().unwrap().contains(words), "{detail}");
    assert_eq!(
        browser.evaluate(ladders),
        json!([1, 0]),
        "one hop has the ladder of one hop"
    );
    assert_eq!(browser.errors, Vec::<String>::new());
    assert_eq!(browser.requests, [format!("file://{}", path.display())]);
}

#[test]
fn packets_across_hops_are_found_by_pointer_and_keys() {
    let Some(mut browser) = Browser::start("point") else {
        return;
    };
    open(&mut browser, &hops::report());
    let read = "document.querySelector('.readout.rung').textContent";
    let keys = "(() => { const box = document.querySelector('.ladder.hops');
        for (const key of ['ArrowDown', 'ArrowDown', 'ArrowUp', 'End']) {
            box.dispatchEvent(new KeyboardEvent('keydown', { key }));
        }
        return [box.getAttribute('aria-activedescendant'),
            box.querySelector('.row.chosen').getAttribute('aria-selected')]; })()";
    assert_eq!(browser.evaluate(keys), json!(["rung-12", "true"]));
    let said = browser.evaluate(read);
    let said = said.as_str().unwrap();
    assert!(said.starts_with("#13 to the server: ACK seq 1"), "{said}");
    assert!(said.contains("not known"), "no clock there: {said}");
    // The middle of the first arrow, between the first two hops: four milliseconds on.
    let point = "(() => { const box = document.querySelector('.ladder.hops .rows');
        box.scrollIntoView();
        const row = box.querySelector('.row[data-index=\"0\"]').getBoundingClientRect();
        const lines = box.querySelector('.row .lines').getBoundingClientRect();
        const names = [...document.querySelectorAll('.hopname')].map((it) => {
            const { left, width } = it.getBoundingClientRect(); return left + width / 2; });
        return [names[0], names[1], row.top + row.height / 2, lines.width]; })()";
    let at: Vec<f64> = serde_json::from_value(browser.evaluate(point)).unwrap();
    let middle = (f64::midpoint(at[0], at[1]), at[2] + 7.0);
    browser.drag(middle, middle);
    let said = browser.evaluate(read);
    assert!(
        said.as_str().unwrap().starts_with("#1 to the server: SYN"),
        "{said}"
    );
    let frames = "[...document.querySelectorAll('.readout.rung tbody tr')]
        .map((row) => row.children[1].textContent)";
    assert_eq!(browser.evaluate(frames), json!(["1", "11", "21", "31"]));
    picture(&mut browser, "chosen.png");
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn five_thousand_packets_scroll_with_few_rows() {
    let Some(mut browser) = Browser::start("long") else {
        return;
    };
    open(&mut browser, &hops::with_ladder(hops::long(16, 5_000)));
    let scroll = format!(
        "(async () => {{
        const box = document.querySelector('.ladder.hops');
        let most = 0;
        for (let step = 1; step <= 60; step += 1) {{
            box.scrollTop = box.scrollHeight * step / 60;
            {DRAWN};
            most = Math.max(most, {ROWS});
        }}
        const end = document.querySelector('.ladder.hops .row:last-child .n').textContent;
        const draws = [];
        for (let press = 0; press < 40; press += 1) {{
            const begin = performance.now();
            box.dispatchEvent(new KeyboardEvent('keydown', {{ key: press ? 'ArrowUp' : 'End' }}));
            draws.push(performance.now() - begin);
        }}
        draws.sort((a, b) => a - b);
        return [most, end, draws[20]]; }})()"
    );
    let told = browser.evaluate(&scroll);
    println!(
        "16 hops, 5,000 packets: choosing the next one takes {} ms at the median",
        told[2]
    );
    assert!(told[0].as_u64().unwrap() < 80, "{told}");
    assert_eq!(told[1], "5,000", "the end is not shown");
    let colours = count(&browser.evaluate(COLOURS));
    assert!(colours.iter().all(|count| *count > 8), "{colours:?}");
    picture(&mut browser, "long.png");
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn an_empty_ladder_is_told_on_the_page() {
    let Some(mut browser) = Browser::start("empty") else {
        return;
    };
    open(
        &mut browser,
        &hops::with_ladder(phalanx_engine::stitch::Ladder::default()),
    );
    let detail = browser.evaluate("document.getElementById('detail').textContent");
    assert!(detail.as_str().unwrap().contains("No packets."), "{detail}");
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn hops_of_an_enemy_do_not_run() {
    let Some(mut browser) = Browser::start("rogue") else {
        return;
    };
    let path = open(&mut browser, &hops::hostile());
    picture(&mut browser, "rogue.png");
    let key = "document.querySelector('.ladder.hops')
        .dispatchEvent(new KeyboardEvent('keydown', { key: 'End' }))";
    browser.evaluate(key);
    let hacked = "[window.hacked, document.images.length, document.scripts.length]";
    assert_eq!(browser.evaluate(hacked), json!([null, 0, 4]));
    let turned = "[document.documentElement.textContent.length > 0, ...['main', 'header']
        .map((it) => /[\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\u0000-\\u0009\\u001b]/
        .test(document.querySelector(it).textContent + [...document.querySelectorAll('[title]')]
            .map((one) => one.title).join('')))]";
    assert_eq!(browser.evaluate(turned), json!([true, false, false]));
    assert_eq!(browser.errors, Vec::<String>::new());
    assert_eq!(browser.requests, [format!("file://{}", path.display())]);
}

/// Draws a picture of the first conversation and opens it.
fn open_picture(browser: &mut Browser, report: &Report) {
    let mut bytes = Vec::new();
    svg::write(report, &report.conversations[0], &mut bytes).unwrap();
    let path = browser.path("ladder.svg");
    std::fs::write(&path, bytes).unwrap();
    browser.open(&path);
    let kind = "[document.documentElement.nodeName, document.scripts.length,
        document.getElementsByTagName('parsererror').length]";
    assert_eq!(browser.evaluate(kind), json!(["svg", 0, 0]));
    assert_eq!(
        browser.requests.pop(),
        Some(format!("file://{}", path.display()))
    );
    assert_eq!(browser.requests, Vec::<String>::new());
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn the_picture_is_one_that_browsers_draw() {
    let Some(mut browser) = Browser::start("picture") else {
        return;
    };
    let size = json!({"width": 1500, "height": 800, "deviceScaleFactor": 1, "mobile": false});
    browser.call("Emulation.setDeviceMetricsOverride", size);
    open_picture(&mut browser, &hops::report());
    picture(&mut browser, "ladder.svg.png");
    let arrows = "document.querySelectorAll('.tip').length";
    assert_eq!(browser.evaluate(arrows), 13);
    open_picture(&mut browser, &hops::with_ladder(hops::long(16, 60)));
    picture(&mut browser, "wide.svg.png");
    open_picture(&mut browser, &hops::with_ladder(hops::long(2, 5_000)));
    assert_eq!(browser.evaluate(arrows), 2_000);
    open_picture(&mut browser, &hops::hostile());
    picture(&mut browser, "rogue.svg.png");
    let hacked = "[window.hacked, document.getElementsByTagName('img').length]";
    assert_eq!(browser.evaluate(hacked), json!([null, 0]));
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.call("Emulation.setEmulatedMedia", dark);
    let ground = "getComputedStyle(document.querySelector('.back')).fill";
    assert_eq!(browser.evaluate(ground), "rgb(20, 22, 26)");
}
