"""Each instance keeps the id that the API gave it, until the first look brings Ganeti's."""

from uuid import UUID, uuid5

from django.db import migrations
from django.db.models import F

IDS = UUID("8a0c3f52-6f0b-5d0e-9b53-0f2a4c1d7e66")


def keep_ids(apps, schema_editor):
    Instance = apps.get_model("inventory", "Instance")
    Instance.objects.update(created_at=F("observed_not_before"))
    batch = []
    rows = Instance.objects.select_related("cluster").only("id", "name", "cluster__name")
    for row in rows.iterator(chunk_size=2000):
        row.api_id = uuid5(IDS, f"{row.cluster.name}/{row.name}")
        batch.append(row)
        if len(batch) == 2000:
            Instance.objects.bulk_update(batch, ["api_id"])
            batch = []
    Instance.objects.bulk_update(batch, ["api_id"])


class Migration(migrations.Migration):
    dependencies = [("inventory", "0003_levels")]
    operations = [migrations.RunPython(keep_ids, migrations.RunPython.noop)]
