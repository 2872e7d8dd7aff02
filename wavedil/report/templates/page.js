"use strict";
{
  const root = document.documentElement;
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // Light and dark. Storage may be refused, e.g. for a page opened from a file.
  const storage = (call) => { try { return call(localStorage); } catch { return null; } };
  const theme = document.getElementById("theme");
  const chosen = storage((store) => store.getItem("wavedil-theme"));
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    storage((store) => store.setItem("wavedil-theme", root.dataset.theme));
  });

  // Clips: one plays at a time.
  const loop = document.getElementById("loop");
  const clips = all(".clip").map((figure) => {
    const audio = figure.querySelector("audio");
    const clip = {
      figure, audio, length: Number(figure.dataset.seconds), row: figure.closest(".row"),
      play: figure.querySelector(".play"), seek: figure.querySelector(".seek"), time: figure.querySelector(".time"),
      head: figure.querySelector(".playhead"), wanted: 0,
    };
    audio.controls = false;
    figure.querySelector(".controls").hidden = false;
    figure.querySelector(".save").href = audio.src;
    clip.play.addEventListener("click", () => toggle(clip));
    clip.seek.addEventListener("input", () => { activate(clip); move(clip, Number(clip.seek.value)); });
    figure.querySelector(".picture").addEventListener("click", (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      activate(clip);
      move(clip, ((event.clientX - box.left) / box.width) * clip.length);
    });
    figure.addEventListener("focusin", () => activate(clip));
    audio.addEventListener("loadedmetadata", () => { if (clip.wanted) audio.currentTime = clip.wanted; });
    for (const name of ["play", "pause", "ended", "timeupdate", "seeked"]) audio.addEventListener(name, () => show(clip));
    return clip;
  });
  let active = clips[0] ?? null;

  const position = (clip) => (clip.audio.readyState ? clip.audio.currentTime : clip.wanted);
  function move(clip, seconds) {
    clip.wanted = clamp(seconds, 0, clip.length);
    if (clip.audio.readyState) clip.audio.currentTime = clip.wanted;
    else clip.audio.load();
    show(clip, clip.wanted);
  }
  function show(clip, at = position(clip)) {
    const playing = !clip.audio.paused && !clip.audio.ended;
    clip.head.style.left = `${(100 * at) / clip.length}%`;
    clip.seek.value = at;
    clip.seek.setAttribute("aria-valuetext", `${at.toFixed(1)} of ${clip.length.toFixed(1)} seconds`);
    clip.time.textContent = `${at.toFixed(1)} / ${clip.length.toFixed(1)} s`;
    clip.play.textContent = playing ? "❚❚" : "▶";
    clip.play.setAttribute("aria-pressed", playing);
    if (playing) requestAnimationFrame(() => show(clip));
  }
  function activate(clip) {
    if (active) active.figure.classList.remove("active");
    active = clip;
    clip.figure.classList.add("active");
    all("[data-switch]", clip.row).forEach((button, index) =>
      button.setAttribute("aria-pressed", row(clip)[index] === clip));
  }
  const row = (clip) => clips.filter((other) => other.row === clip.row);
  function pauseOthers(clip) { for (const other of clips) if (other !== clip) other.audio.pause(); }
  function start(clip) {
    pauseOthers(clip);
    activate(clip);
    if (position(clip) >= clip.length - 0.01) move(clip, 0);
    clip.audio.loop = Boolean(loop?.checked);
    clip.audio.play().catch(() => show(clip));
  }
  function toggle(clip) { if (clip.audio.paused || clip.audio.ended) start(clip); else { activate(clip); clip.audio.pause(); } }
  function switchTo(clip) {
    if (!clip) return;
    const from = active && active.row === clip.row ? active : null;
    const playing = from ? !from.audio.paused : false;
    if (from && from !== clip) { move(clip, Math.min(position(from), clip.length)); from.audio.pause(); }
    if (playing) start(clip); else { pauseOthers(clip); activate(clip); }
  }
  for (const button of all("[data-switch]"))
    button.addEventListener("click", () =>
      switchTo(clips.filter((clip) => clip.row === button.closest(".row"))[Number(button.dataset.switch)]));
  loop?.addEventListener("change", () => { for (const clip of clips) clip.audio.loop = loop.checked; });

  function neighbor(step) {
    const rows = [...new Set(clips.map((clip) => clip.row))];
    const next = rows[rows.indexOf(active.row) + step];
    const found = next && clips.filter((clip) => clip.row === next);
    return found && found[Math.min(row(active).indexOf(active), found.length - 1)];
  }
  document.addEventListener("keydown", (event) => {
    const element = event.target;
    const typing = element instanceof HTMLInputElement && !element.classList.contains("seek");
    if (!active || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const pressed = element instanceof HTMLButtonElement || element.closest?.("a, summary");
    const key = event.key.toLowerCase();
    if (key === " " && !pressed) toggle(active);
    else if (key === "arrowleft") move(active, position(active) - Math.max(0.1, active.length / 20));
    else if (key === "arrowright") move(active, position(active) + Math.max(0.1, active.length / 20));
    else if (key === "arrowup" || key === "arrowdown") {
      const clip = neighbor(key === "arrowup" ? -1 : 1);
      if (!clip) return;
      const playing = !active.audio.paused;
      pauseOthers(null);
      clip.figure.focus();
      clip.figure.scrollIntoView({ block: "center" });
      if (playing) start(clip);
    } else if (key === "l" && loop) loop.click();
    else if (/^[a-z]$/.test(key) && row(active)[key.charCodeAt(0) - 97]) switchTo(row(active)[key.charCodeAt(0) - 97]);
    else return;
    event.preventDefault();
  });

  // Images: ground truth on the left of the slider, prediction on the right.
  for (const comparison of all(".comparison")) {
    const pictures = comparison.closest(".pictures");
    const box = comparison.querySelector(".compare");
    for (const name of ["truth", "prediction"]) {
      const image = pictures.querySelector(`[data-part=${name}] img`).cloneNode();
      box.append(image);
    }
    const slider = comparison.querySelector("input");
    const cut = () => box.style.setProperty("--cut", `${slider.value}%`);
    slider.addEventListener("input", cut);
    const drag = (event) => {
      const size = box.getBoundingClientRect();
      slider.value = (100 * (event.clientX - size.left)) / size.width;
      cut();
    };
    box.addEventListener("pointerdown", (event) => { box.setPointerCapture(event.pointerId); drag(event); });
    box.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
    comparison.hidden = false;
    cut();
  }

  // While the run trains, the page is read again, unless something plays or the page is hidden. A page that has not
  // changed for an hour belongs to a run that has ended without writing it again.
  if (root.dataset.running !== undefined) {
    const every = Number(root.dataset.running) * 1000;
    const later = () => setTimeout(() => {
      if (Date.now() - Number(root.dataset.written) * 1000 > 3600e3) return;
      if (document.hidden || clips.some((clip) => !clip.audio.paused)) later();
      else location.reload();
    }, every);
    later();
  }
}
