"""What the routes of carbon share."""

from typing import Annotated

from fastapi import Depends

from libs.common.tokens import Principal
from libs.common.web import require

Reader = Annotated[Principal, Depends(require("carbon:read"))]
Writer = Annotated[Principal, Depends(require("carbon:write"))]
