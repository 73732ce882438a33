"use strict";
// Shows the OpenAPI document and tries its requests. No library and no other host: it must work offline.
// Everything from the document is put in as text, never as markup.

const at = (id) => document.getElementById(id);
let api = null;

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") node.className = value; else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function resolve(schema) {
  const path = schema && schema.$ref;
  return path ? path.slice(2).split("/").reduce((node, part) => node && node[part], api) || {} : schema || {};
}

// A value that looks like what the schema describes.
function sample(schema, depth = 0) {
  const it = resolve(schema);
  if (it.example !== undefined) return it.example;
  if (it.default !== undefined) return it.default;
  if (it.const !== undefined) return it.const;
  if (it.enum) return it.enum[0];
  if (depth > 6) return null;
  if (it.allOf) return Object.assign({}, ...it.allOf.map((part) => sample(part, depth + 1)));
  const choices = it.oneOf || it.anyOf;
  if (choices) return sample(choices.find((choice) => resolve(choice).type !== "null") || choices[0], depth + 1);
  const type = Array.isArray(it.type) ? it.type.find((one) => one !== "null") : it.type;
  if (type === "object" || it.properties) {
    return Object.fromEntries(Object.entries(it.properties || {}).map(([name, part]) => [name, sample(part, depth + 1)]));
  }
  if (type === "array") return [sample(it.items, depth + 1)];
  return { string: "text", integer: 1, number: 1, boolean: true }[type] ?? null;
}

function fields(schema) {
  let it = resolve(schema);
  const choice = (it.oneOf || []).find((one) => resolve(one).type !== "null");
  if (!it.properties && choice) it = resolve(choice);
  const rows = Object.entries(it.properties || {}).map(([name, part]) => {
    const needed = (it.required || []).includes(name);
    const words = part.description || resolve(part).description || "";
    return make("tr", {}, make("td", {}, make("code", {}, name), needed ? " *" : ""), make("td", {}, words));
  });
  return rows.length ? make("table", {}, ...rows) : null;
}

function json(value) {
  return make("pre", {}, JSON.stringify(value, null, 2));
}

function attempt(path, method, operation) {
  const inputs = (operation.parameters || []).map((parameter) => {
    const input = make("input", { placeholder: parameter.in, "aria-label": parameter.name });
    return { parameter, input };
  });
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  const body = content ? make("textarea", { "aria-label": "body" }) : null;
  if (body) body.value = JSON.stringify(content.example || sample(content.schema), null, 2);
  const out = make("pre", {}, "");
  const button = make("button", { type: "button" }, "Send");
  button.addEventListener("click", async () => {
    let target = path;
    const query = new URLSearchParams();
    const headers = {};
    for (const { parameter, input } of inputs) {
      if (!input.value) continue;
      if (parameter.in === "path") target = target.replace("{" + parameter.name + "}", encodeURIComponent(input.value));
      if (parameter.in === "query") query.set(parameter.name, input.value);
      if (parameter.in === "header") headers[parameter.name] = input.value;
    }
    if (at("token").value) headers.Authorization = "Bearer " + at("token").value.trim();
    if (body && body.value) headers["Content-Type"] = "application/json";
    const search = query.size ? "?" + query : "";
    try {
      const sent = body && body.value ? body.value : undefined;
      const answer = await fetch(target + search, { method: method.toUpperCase(), headers, body: sent });
      const text = await answer.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: as it is */ }
      out.textContent = answer.status + " " + answer.statusText + "\n" + shown;
    } catch (error) {
      out.textContent = String(error);
    }
  });
  const rows = inputs.map(({ parameter, input }) => make("tr", {},
    make("td", {}, make("code", {}, parameter.name), parameter.required ? " *" : ""),
    make("td", {}, parameter.description || ""), make("td", {}, input)));
  return make("div", {}, rows.length ? make("table", {}, ...rows) : null, body, button, out);
}

function show(path, method, operation) {
  const open = (operation.security || []).some((one) => Object.keys(one).length === 0);
  const node = make("details", {}, make("summary", {},
    make("span", { class: "method " + method.toUpperCase() }, method.toUpperCase()),
    make("code", {}, path), make("span", {}, operation.summary || ""),
    open ? make("span", { class: "open" }, "no token") : null));
  node.addEventListener("toggle", () => {
    if (!node.open || node.childElementCount > 1) return;
    if (operation.description) node.append(make("p", { class: "words" }, operation.description));
    const body = operation.requestBody && operation.requestBody.content["application/json"];
    if (body) node.append(make("h4", {}, "Body"), fields(body.schema) || "");
    node.append(make("h4", {}, "Answers"));
    for (const [status, given] of Object.entries(operation.responses || {})) {
      const content = Object.values(resolve(given).content || {})[0];
      const problem = status >= "400" || !content;
      node.append(make("p", {}, make("code", {}, status), " " + (resolve(given).description || "")));
      if (!problem) node.append(json(content.example || sample(content.schema)));
    }
    node.append(make("h4", {}, "Try it"), attempt(path, method, operation));
  });
  return node;
}

function render() {
  const groups = new Map((api.tags || []).map((tag) => [tag.name, make("section", {},
    make("h2", {}, tag.name), make("p", {}, tag.description || ""))]));
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of ["get", "post", "delete"]) {
      if (item[method]) groups.get((item[method].tags || [])[0])?.append(show(path, method, item[method]));
    }
  }
  at("title").textContent = api.info.title + " API " + api.info.version;
  at("main").replaceChildren(make("p", { class: "words" }, api.info.description || ""), ...groups.values());
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const headers = { Authorization: "Bearer " + at("token").value.trim() };
  try {
    const answer = await fetch("/api/openapi.json", { headers });
    if (!answer.ok) throw new Error(answer.status === 401 ? "This token is not valid." : "The server answered " + answer.status);
    api = await answer.json();
    render();
    at("state").textContent = "";
  } catch (error) {
    at("state").textContent = error.message;
  }
});
