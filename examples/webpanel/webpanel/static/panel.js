// What changes by itself: a job's stream, and the lists of what goes on. Everything else
// works without this.
"use strict";

(() => {
  const MOST = 2000; // packets that are kept in the page
  const POLL = 1000; // ms
  const RETRY = 5000; // ms, after a failure

  document.documentElement.classList.add("scripted");
  const byId = (id) => document.getElementById(id);
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));

  // Ask; null: it failed, and may be tried again.
  async function ask(address) {
    try {
      const response = await fetch(address, { cache: "no-store" });
      if (response.redirected) {
        location.reload(); // the session has ended: this leads to the login
        await new Promise(() => {});
      }
      return response.ok ? response : null;
    } catch {
      return null;
    }
  }

  // Put what a part of this page is now in its place, and leave the keyboard's focus
  // where it was. What is being used, or read out by copying, is left until later.
  function replace(id, page, always) {
    const now = byId(id);
    const next = page.getElementById(id);
    if (!now || !next) return;
    const focused = now.contains(document.activeElement) ? document.activeElement : null;
    const selection = getSelection();
    const isUsed =
      focused?.matches("select, input") ||
      (!selection.isCollapsed && now.contains(selection.anchorNode));
    if (isUsed && !always) return;
    now.replaceWith(next);
    if (!focused) return;
    const name = (element) => element.getAttribute("href") ?? element.textContent;
    const those = [...next.querySelectorAll("a, button")];
    (those.find((element) => name(element) === name(focused)) ?? those[0])?.focus();
  }

  async function reloadParts(ids, always = false) {
    const response = await ask(location.href);
    if (!response) return false;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    ids.forEach((id) => replace(id, page, always));
    return true;
  }

  // A list or a group: as long as what is there now asks for it.
  async function refresh(id) {
    for (;;) {
      const seconds = Number(byId(id)?.dataset.refresh);
      if (!seconds) return;
      await wait(seconds * 1000);
      if (!document.hidden && !(await reloadParts([id]))) await wait(RETRY);
    }
  }

  // --- a job -------------------------------------------------------------------------

  function add(list, number, text) {
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const item = document.createElement("li");
    item.className = "packet";
    item.value = number;
    item.textContent = text; // never as HTML
    list.append(item);
    while (list.childElementCount > MOST) list.firstElementChild.remove();
    list.dataset.next = number + 1;
    byId("nothing").hidden = true;
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  async function poll(list) {
    for (;;) {
      const since = Number(list.dataset.next);
      const response = await ask(`${list.dataset.packets}?since=${since}`);
      if (!response) {
        await wait(RETRY);
        continue;
      }
      const found = await response.json();
      found.packets.forEach((text, index) => add(list, since + index, text));
      if (found.ended) return;
      if (!found.packets.length) await wait(POLL);
    }
  }

  // Resolves when the job has ended: by events, or if there are none, by polling.
  function follow(list) {
    if (!list.dataset.events) return poll(list);
    return new Promise((done) => {
      const address = `${list.dataset.events}?since=${list.dataset.next}`;
      const source = new EventSource(address);
      source.onmessage = (event) => {
        const number = Number(event.lastEventId);
        if (number >= Number(list.dataset.next)) {
          add(list, number, JSON.parse(event.data));
        }
      };
      source.addEventListener("end", () => {
        source.close();
        done();
      });
      source.onerror = () => {
        // Otherwise it comes again by itself, and goes on where it was.
        if (source.readyState === EventSource.CLOSED) done(poll(list));
      };
    });
  }

  async function watch(list) {
    let hasEnded = false;
    follow(list).then(async () => {
      hasEnded = true;
      while (!(await reloadParts(["now", "facts", "end"], true))) await wait(RETRY);
      byId("said").textContent =
        "Ended: " + (document.querySelector("#now .state")?.textContent ?? "");
    });
    // Soon once: a job that has just been submitted is mostly still connecting.
    for (let pause = POLL; !hasEnded; pause = RETRY) {
      await wait(pause);
      if (!hasEnded && !document.hidden) await reloadParts(["now", "facts"]);
    }
  }

  const list = byId("stream");
  if (list) list.scrollTop = list.scrollHeight;
  if (list?.dataset.packets) watch(list);
  ["jobs", "group", "queues", "queue"].forEach(refresh);
})();
