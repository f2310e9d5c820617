// What the pages of the report do: filter the map and the lists, narrow the budget's table, open what a link points into.
(function () {
  "use strict";

  function each(selector, act, inside) {
    Array.prototype.forEach.call((inside || document).querySelectorAll(selector), act);
  }

  // A link to a row inside a closed list opens the list.
  function reveal() {
    var target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (var node = target; node; node = node.parentElement) {
      if (node.tagName === "DETAILS") { node.open = true; }
    }
    if (target) { target.scrollIntoView(); }
  }
  window.addEventListener("hashchange", reveal);
  window.addEventListener("DOMContentLoaded", reveal);

  // Forms need this program, so they are hidden until it runs.
  each(".form", function (form) { form.hidden = false; });

  function words(row, name) { return (row.getAttribute("data-" + name) || "").split("|"); }

  // Rows of the list that a form names in data-list: free text, and one choice for each select.
  each("form[data-list]", function (form) {
    var list = document.getElementById(form.getAttribute("data-list"));
    var said = document.getElementById(form.getAttribute("data-list") + "-count");
    function narrow() {
      var text = form.elements.search ? form.elements.search.value.toLowerCase().trim() : "";
      var evidence = form.elements.evidence ? form.elements.evidence.value : "";
      var verdict = form.elements.verdict ? form.elements.verdict.value : "";
      var shown = 0;
      each("tr[data-search]", function (row) {
        var fits = row.getAttribute("data-search").toLowerCase().indexOf(text) >= 0;
        each("select[data-key]", function (select) {
          fits = fits && (!select.value || words(row, select.getAttribute("data-key")).indexOf(select.value) >= 0);
        }, form);
        fits = fits && (!(evidence || verdict) || words(row, "cells").some(function (cell) {
          var parts = cell.split(":");
          return parts.length === 2 && (!evidence || parts[0] === evidence) && (!verdict || parts[1] === verdict);
        }));
        row.hidden = !fits;
        shown += fits ? 1 : 0;
      }, list);
      each("tbody", function (body) {
        var heading = body.querySelector("tr.family");
        if (heading) { heading.hidden = !body.querySelector("tr[data-search]:not([hidden])"); }
      }, list);
      if (said) { said.textContent = shown + " shown"; }
    }
    form.addEventListener("input", narrow);
    form.addEventListener("reset", function () { setTimeout(narrow, 0); });
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    narrow();
  });

  // Which claims of a paper are shown.
  each("[data-filter]", function (button) {
    button.addEventListener("click", function () {
      document.body.setAttribute("data-show", button.getAttribute("data-filter"));
      each("[data-filter]", function (other) { other.setAttribute("aria-pressed", String(other === button)); });
      each("#claims > details", function (details) { details.open = true; });
    });
  });

  // Settings within every limit that is given; one whose cost was not measured is counted and not shown.
  each("form[data-budget]", function (form) {
    var list = document.getElementById(form.getAttribute("data-budget"));
    var answer = document.getElementById("answer");
    function limits() {
      var found = [];
      each("input[data-axis]", function (input) {
        var value = parseFloat(input.value.replace(/,/g, ""));
        if (!isNaN(value)) { found.push([input.getAttribute("data-axis"), value * parseFloat(input.getAttribute("data-unit"))]); }
      }, form);
      return found;
    }
    function narrow() {
      var given = limits(), fitting = [], unknown = 0, candidates = 0;
      each("tr[data-backbone]", function (row) {
        var here = true;
        each("select[data-key]", function (select) {
          here = here && (!select.value || row.getAttribute("data-" + select.getAttribute("data-key")) === select.value);
        }, form);
        var known = given.every(function (limit) { return row.hasAttribute("data-" + limit[0]); });
        var within = known && given.every(function (limit) { return parseFloat(row.getAttribute("data-" + limit[0])) <= limit[1]; });
        candidates += here ? 1 : 0;
        unknown += here && !known ? 1 : 0;
        row.hidden = !(here && within);
        if (here && within) { fitting.push(row); }
      }, list);
      var text = fitting.length + " of " + candidates + " measured settings fit.";
      if (unknown) { text += " " + unknown + " are left out because one of these costs was not measured for them."; }
      var scored = fitting.filter(function (row) { return row.hasAttribute("data-score"); });
      var groups = {};
      scored.forEach(function (row) { groups[row.getAttribute("data-group")] = true; });
      answer.textContent = text;
      if (scored.length && Object.keys(groups).length === 1) {
        answer.appendChild(document.createTextNode(" The best score among them: "));
        answer.appendChild(scored[0].querySelector("a").cloneNode(true));
        answer.appendChild(document.createTextNode(", " + scored[0].getAttribute("data-said") + "."));
      } else if (scored.length) {
        answer.appendChild(document.createTextNode(" Choose a backbone and a task to compare their scores."));
      } else if (fitting.length) {
        answer.appendChild(document.createTextNode(" None of them has a score here: they are costs at full size."));
      }
    }
    form.addEventListener("input", narrow);
    form.addEventListener("reset", function () { setTimeout(narrow, 0); });
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    narrow();
  });
})();
