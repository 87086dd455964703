// What build.py put into the page.

"use strict";

const $ = (id) => document.getElementById(id);
const FACTS = JSON.parse($("facts").textContent);
const SAMPLES = JSON.parse($("sample-pictures").textContent);
const CLASSES = FACTS.classes;
