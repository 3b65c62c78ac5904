"use strict";
const service = location.pathname.split("/").pop();
document.querySelector(`header a[href="/docs/${service}"]`).setAttribute("aria-current", "page");
SwaggerUIBundle({ url: `/api/openapi/${service}.json`, dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true });
