// Help and "About" lead to comfyk: what the UI would ask its own makers, they cannot answer for another server.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const SUPPORT = "https://support.comfy.org/";
const ISSUES = /^https:\/\/github\.com\/Comfy-Org\/ComfyUI\/issues(?=$|[/?#])/i;

const links = { help: "/help", issues: null, home: null };
const badge = { label: "comfyk", url: links.help, icon: "pi pi-server" };

app.registerExtension({ name: "comfyk.help", aboutPageBadges: [badge] });

function here(path) {
    return path.startsWith("/") ? api.fileURL(path) : path;
}

function ours(address) {
    const text = String(address ?? "");
    if (text.startsWith(SUPPORT)) return here(links.help);
    if (!ISSUES.test(text)) return address;
    if (links.issues) return text.replace(ISSUES, () => links.issues);
    const searched = new URL(text).searchParams.get("q");
    const question = searched && links.help.startsWith("/") ? `?q=${encodeURIComponent(searched.slice(0, 1000))}` : "";
    return here(links.help) + question;
}

const open = window.open;
window.open = (address, ...rest) => open.call(window, ours(address), ...rest);

const response = await api.fetchApi("/system_stats");
if (response.ok) {
    const { system } = await response.json();
    Object.assign(links, system.comfyk_links);
    badge.label = `comfyk ${system.comfyk_version}`;
    badge.url = here(links.home ?? links.help);
}
